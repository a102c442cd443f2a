//! The proxies that the environment asks for.

use std::ffi::OsString;
use std::net::IpAddr;

use ureq::Proxy;

use super::address::Address;
use crate::error::{Error, Result};

/// The names of a variable: of two that are set, the first counts, as with curl.
const HTTP: [&str; 2] = ["http_proxy", "HTTP_PROXY"];
const HTTPS: [&str; 2] = ["https_proxy", "HTTPS_PROXY"];
const ALL: [&str; 2] = ["all_proxy", "ALL_PROXY"];
const NONE: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// A proxy and the variable that names it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) variable: &'static str,
    pub(super) proxy: Proxy,
}

/// The proxy settings of the environment.
#[derive(Debug)]
pub(super) struct Proxies {
    http: Option<Named>,
    https: Option<Named>,
    direct: Vec<Direct>,
}

/// Hosts that are asked without a proxy.
#[derive(Debug, PartialEq)]
enum Direct {
    All,
    /// A domain and all below it.
    Domain(String),
    /// What starts so.
    Prefix(String),
    /// Addresses that have so many first bits in common with this one.
    Network(IpAddr, u32),
}

impl Proxies {
    /// Reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not.
    ///
    /// # Errors
    /// When one of them is set to what it cannot be, also where another one would be used.
    pub(super) fn of_environment() -> Result<Proxies> {
        Proxies::read(|name| std::env::var_os(name))
    }

    fn read(value: impl Fn(&str) -> Option<OsString>) -> Result<Proxies> {
        let set = |names: [&'static str; 2]| {
            let text = |name| value(name).filter(|text| !text.is_empty()).map(|text| (name, text));
            names.into_iter().filter_map(text).collect::<Vec<_>>()
        };
        let proxies = |names| set(names).into_iter().map(proxy).collect::<Result<Vec<Named>>>();
        let [http, https, all] = [proxies(HTTP)?, proxies(HTTPS)?, proxies(ALL)?];
        let mut direct = Vec::new();
        for (variable, text) in set(NONE) {
            let text = text.into_string().map_err(|_| not_utf8(variable))?;
            let entries = text.split([',', ' ']).filter(|entry| !entry.is_empty());
            for entry in entries {
                direct.push(Direct::parse(entry).ok_or_else(|| {
                    Error::Input(format!(
                        "{variable}: an entry is no name of a host, no address and no network; give a list as \
                         localhost,.example.com,10.0.0.0/8"
                    ))
                })?);
            }
        }
        let first = |of_scheme: Vec<Named>| of_scheme.into_iter().chain(all.iter().cloned()).next();
        Ok(Proxies { http: first(http), https: first(https), direct })
    }

    /// The proxy to ask `address` through.
    pub(super) fn of(&self, address: &Address) -> Option<&Named> {
        let host = address.host().to_ascii_lowercase();
        let proxy = if address.is_secure() { &self.https } else { &self.http };
        proxy.as_ref().filter(|_| !self.direct.iter().any(|direct| direct.has(&host)))
    }
}

fn not_utf8(variable: &str) -> Error {
    Error::Input(format!("{variable}: the value is not UTF-8; set it to the URL of a proxy, or unset it"))
}

/// The proxy of a variable. Its value is in no message: it may hold a password.
fn proxy((variable, text): (&'static str, OsString)) -> Result<Named> {
    let text = text.into_string().map_err(|_| not_utf8(variable))?;
    let wrong = || {
        Error::Input(format!(
            "{variable}: the value is no URL of a proxy; set it to one as http://proxy.example:3128, or unset it"
        ))
    };
    let proxy = Proxy::new(text.trim()).map_err(|_| wrong())?;
    let authority = proxy.uri().authority().map_or("", |authority| authority.as_str());
    let place = authority.rsplit('@').next().unwrap_or(authority);
    let host = proxy.host();
    let named = |c: char| c.is_alphanumeric() || "-_.[]:".contains(c);
    let usual = !host.is_empty() && host.chars().all(named);
    if !usual || proxy.port() == 0 || (place != host && place != format!("{host}:{}", proxy.port())) {
        return Err(wrong());
    }
    Ok(Named { variable, proxy })
}

impl Direct {
    fn parse(entry: &str) -> Option<Direct> {
        let entry = entry.to_ascii_lowercase();
        if entry == "*" {
            return Some(Direct::All);
        }
        let bare = entry.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Direct::Network(address, bits(address)));
        }
        if let Some((address, prefix)) = bare.split_once('/') {
            let address: IpAddr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|&prefix| prefix <= bits(address))?;
            return Some(Direct::Network(address, prefix));
        }
        let is_name =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        let name = match entry.rsplit_once(':') {
            Some((name, port)) => port.parse::<u16>().ok().map(|_| name)?,
            None => &entry,
        };
        if let Some(prefix) = name.strip_suffix('*') {
            return is_name(prefix).then(|| Direct::Prefix(prefix.to_owned()));
        }
        let name = name.strip_prefix('*').unwrap_or(name).trim_matches('.');
        is_name(name).then(|| Direct::Domain(name.to_owned()))
    }

    fn has(&self, host: &str) -> bool {
        match self {
            Direct::All => true,
            Direct::Domain(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            Direct::Prefix(prefix) => host.starts_with(prefix.as_str()),
            Direct::Network(network, prefix) => {
                host.parse::<IpAddr>().is_ok_and(|host| shares(host, *network, *prefix))
            }
        }
    }
}

fn bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether two addresses of one kind have their first bits in common.
fn shares(a: IpAddr, b: IpAddr, first: u32) -> bool {
    let differ = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    differ.leading_zeros() >= first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Proxies> {
        let set: Vec<(String, String)> = set.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
        Proxies::read(move |name| set.iter().find(|(n, _)| n == name).map(|(_, value)| value.into()))
    }

    fn used(set: &[(&str, &str)], url: &str) -> Option<String> {
        let proxies = read(set).unwrap();
        proxies.of(&Address::parse(url).unwrap()).map(|named| named.proxy.host().to_owned())
    }

    #[test]
    fn a_proxy_is_that_of_the_scheme_and_then_that_of_all() {
        let set = [
            ("HTTPS_PROXY", "http://s:1"),
            ("http_proxy", "h:2"),
            ("ALL_PROXY", "socks5h://a:3"),
            ("HTTP_PROXY", "x"),
        ];
        assert_eq!(used(&set, "https://w/").as_deref(), Some("s"));
        assert_eq!(used(&set, "http://w/").as_deref(), Some("h"));
        assert_eq!(used(&set[2..3], "https://w/").as_deref(), Some("a"));
        assert_eq!(used(&set[..1], "http://w/"), None);
        assert_eq!(used(&[("HTTPS_PROXY", "")], "https://w/"), None);
    }

    #[test]
    fn hosts_that_need_no_proxy_are_asked_directly() {
        let list = "localhost, .example.com,*.org,10.1.0.0/16,192.168.*,[::1],h:8080";
        for (host, direct) in [
            ("localhost", true),
            ("example.com", true),
            ("a.EXAMPLE.com", true),
            ("badexample.com", false),
            ("x.org", true),
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("192.168.9.9", true),
            ("[::1]", true),
            ("[::2]", false),
            ("h", true),
        ] {
            let set = [("ALL_PROXY", "http://p:1"), ("NO_PROXY", list)];
            assert_eq!(used(&set, &format!("https://{host}/")).is_none(), direct, "{host}");
        }
        assert_eq!(used(&[("ALL_PROXY", "http://p"), ("no_proxy", "*")], "https://x/"), None);
    }

    #[test]
    fn nonsense_is_refused_by_the_name_of_its_variable() {
        for variable in ["HTTP_PROXY", "https_proxy", "ALL_PROXY"] {
            for value in [
                "::::",
                "foo://bar",
                "http://",
                "http://h:99999",
                "http://h:0",
                "not a proxy",
                "http://u:secret@h:port",
            ] {
                let error = read(&[(variable, value)]).unwrap_err().to_string();
                assert!(
                    error.starts_with(&format!("{variable}: ")) && !error.contains("secret"),
                    "{value}: {error}"
                );
            }
        }
        for value in ["http://host", "10.0.0.0/99", "a b/c", "ä?", "host:port"] {
            let error = read(&[("NO_PROXY", value)]).unwrap_err().to_string();
            assert!(error.starts_with("NO_PROXY: "), "{value}: {error}");
        }
    }
}
