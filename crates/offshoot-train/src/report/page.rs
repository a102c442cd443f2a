//! The page: HTML around what the other modules draw.

use std::fmt::Write as _;

/// Text in HTML, between tags or in an attribute in quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A part of the page under a heading. Nothing where there is no content.
pub(super) fn section(title: &str, content: &str) -> String {
    match content.is_empty() {
        true => String::new(),
        false => format!("<section><h2>{}</h2>{content}</section>", escaped(title)),
    }
}

/// A table. Cells are text; the first `left` columns stand at the left, the others are numbers.
pub(super) fn table(columns: &[&str], rows: &[Vec<String>], left: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let class = |column: usize| if column < left { "" } else { " class=\"n\"" };
    let mut html = String::from("<div class=\"scroll\"><table><thead><tr>");
    for (i, column) in columns.iter().enumerate() {
        let _ = write!(html, "<th{}>{}</th>", class(i), escaped(column));
    }
    html += "</tr></thead><tbody>";
    for row in rows {
        html += "<tr>";
        for (i, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(i), escaped(cell));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// Figures with a word on each.
pub(super) fn cards(cards: &[(&str, String)]) -> String {
    let mut html = String::from("<div class=\"cards\">");
    for (name, value) in cards {
        let _ = write!(html, "<div><b>{}</b><span>{}</span></div>", escaped(value), escaped(name));
    }
    html + "</div>"
}

/// The whole page. `body` is HTML, `title` is text.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
}

const STYLE: &str = "\
:root{--paper:#fff;--back:#f4f5f7;--ink:#1d2530;--soft:#667085;--line:#e3e6eb;--accent:#2563eb;--bad:#dc2626;\
--c0:#2563eb;--c1:#ea580c;--c2:#16a34a;--c3:#9333ea;--c4:#0891b2;--c5:#ca8a04}\
@media(prefers-color-scheme:dark){:root{--paper:#171b22;--back:#0e1116;--ink:#e6e9ee;--soft:#98a2b3;--line:#2b313b;\
--accent:#6ea0ff;--bad:#f87171;--c0:#6ea0ff;--c1:#fb923c;--c2:#4ade80;--c3:#c084fc;--c4:#22d3ee;--c5:#facc15}}\
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",Roboto,\"Noto Sans\",\"Noto Sans CJK SC\",sans-serif}\
main{max-width:1080px;margin:0 auto;padding:24px 16px 64px}h1{font-size:24px;margin:8px 0 16px;overflow-wrap:anywhere}\
h2{font-size:17px;margin:0 0 12px}h3{font-size:14px;margin:16px 0 8px;color:var(--soft);font-weight:600}\
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0}\
p{margin:0 0 12px;color:var(--soft)}\
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:12px}\
.cards div{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:12px}\
.cards b{display:block;font-size:20px;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}\
.cards span{color:var(--soft);font-size:13px}\
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:16px}\
figure{margin:0}.charts+.scroll{margin-top:14px}.charts figure{max-width:560px}figcaption{font-size:14px;font-weight:600;color:var(--soft);margin-bottom:4px}\
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}\
.grid{stroke:var(--line)}polyline{fill:none;stroke-width:2;stroke-linejoin:round}\
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}\
.f0,.k0{fill:var(--c0);background:var(--c0)}.f1,.k1{fill:var(--c1);background:var(--c1)}\
.f2,.k2{fill:var(--c2);background:var(--c2)}.f3,.k3{fill:var(--c3);background:var(--c3)}\
.f4,.k4{fill:var(--c4);background:var(--c4)}.f5,.k5{fill:var(--c5);background:var(--c5)}\
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;font-size:13px;color:var(--soft)}\
.legend i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:14px}\
th,td{padding:6px 10px;text-align:left;border-bottom:1px solid var(--line);white-space:nowrap}\
th{color:var(--soft);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}\
.confusion{width:auto}.confusion td{text-align:center;min-width:44px;border:1px solid var(--line);\
font-variant-numeric:tabular-nums}.confusion th{border:0}.confusion thead th{text-align:center}\
.worst{display:grid;grid-template-columns:repeat(auto-fill,minmax(132px,1fr));gap:14px}\
.worst figure{font-size:13px;overflow-wrap:anywhere}.worst img{width:100%;border-radius:8px;display:block;\
border:1px solid var(--line)}.worst b{color:var(--bad)}.worst small{color:var(--soft);display:block}\
pre{margin:0;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}\
@media(max-width:480px){main{padding:12px 10px 40px}section{padding:12px}th,td{padding:5px 7px}h1{font-size:20px}}";
