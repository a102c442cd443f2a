//! Addresses of files, and what of them may be printed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offshoot_graph::text::escaped;
use ureq::http::Uri;

/// An `http://` or `https://` URL. As text it has no name and password of a user, and nothing of the query: both may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    secure: bool,
    /// `name:password`, as in the URL.
    user: Option<String>,
    /// `host` or `host:port`.
    place: String,
    /// From the first `/` on.
    path: String,
    /// Without its `?`.
    query: Option<String>,
    /// Of the server, in place of a name and a password.
    token: Option<String>,
}

impl Address {
    /// `None` where `text` is no such URL.
    pub(super) fn parse(text: &str) -> Option<Address> {
        let (scheme, rest) = text.split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, authority),
        };
        let (path, query) = split_query(path);
        let path = if path.is_empty() { "/" } else { path };
        let address = Address { secure, user, place: place.into(), path: path.into(), query, token: None };
        let uri: Uri = address.request().parse().ok()?;
        let whole =
            |host: &str| uri.port_u16().map_or(host == place, |port| place == format!("{host}:{port}"));
        uri.host().is_some_and(|host| !host.is_empty() && whole(host)).then_some(address)
    }

    /// The file called `name` in the folder that this is.
    pub(super) fn file(&self, name: &str) -> Address {
        Address { path: format!("{}/{name}", self.path.trim_end_matches('/')), ..self.clone() }
    }

    /// This address with a query.
    pub(super) fn asking(&self, query: &str) -> Address {
        Address { query: Some(query.to_owned()), ..self.clone() }
    }

    /// This address, and all on this server that it leads to, with a token to show. A redirect to another server has none.
    pub(super) fn with_token(&self, token: String) -> Address {
        Address { token: Some(token), ..self.clone() }
    }

    /// The target of a redirect from this address, or why it is not followed.
    pub(super) fn follow(&self, location: &str) -> Result<Address, String> {
        let unread = || "it redirects to what is no http:// or https:// URL".to_owned();
        let to = self.resolve(location).ok_or_else(unread)?;
        if self.secure && !to.secure {
            return Err(format!("it redirects to {to}, which is not encrypted"));
        }
        Ok(to)
    }

    /// A reference as RFC 3986 resolves it. Segments `..` are left to the server.
    fn resolve(&self, location: &str) -> Option<Address> {
        let location = location.split('#').next().unwrap_or(location);
        let scheme_ends = location.find(':').filter(|&end| !location[..end].contains(['/', '?']));
        if scheme_ends.is_some() {
            return Address::parse(location);
        }
        if location.starts_with("//") {
            return Address::parse(&format!("{}:{location}", self.scheme()));
        }
        let (path, query) = split_query(location);
        let folder = &self.path[..=self.path.rfind('/')?];
        let (path, query) = match path {
            "" => (self.path.clone(), query.or_else(|| self.query.clone())),
            path if path.starts_with('/') => (path.to_owned(), query),
            path => (format!("{folder}{path}"), query),
        };
        let to = Address { path, query, ..self.clone() };
        to.request().parse::<Uri>().is_ok().then_some(to)
    }

    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The host, an IPv6 address without its brackets.
    pub(super) fn host(&self) -> &str {
        let port = self.place.rfind(':').filter(|&colon| !self.place[colon..].contains(']'));
        let host = &self.place[..port.unwrap_or(self.place.len())];
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// What to ask for: the URL without name and password, which [`authorization`](Address::authorization) has.
    pub(super) fn request(&self) -> String {
        let query = self.query.as_ref().map_or(String::new(), |query| format!("?{query}"));
        format!("{}://{}{}{query}", self.scheme(), self.place, self.path)
    }

    /// The header of that name, for a URL with a token or a name and a password.
    pub(super) fn authorization(&self) -> Option<String> {
        if let Some(token) = &self.token {
            return Some(format!("Bearer {token}"));
        }
        let user = unescaped(self.user.as_ref()?);
        Some(format!("Basic {}", STANDARD.encode(user)))
    }

    fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let query = if self.query.is_some() { "?..." } else { "" };
        write!(f, "{}://{}{}{query}", self.scheme(), escaped(&self.place), escaped(&self.path))
    }
}

fn split_query(path: &str) -> (&str, Option<String>) {
    match path.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (path, None),
    }
}

/// `text` with `%NN` replaced by the bytes that they stand for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend(&part.as_bytes()[2..]);
            }
            None => out.extend(format!("%{part}").bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn what_is_secret_is_sent_and_not_shown() {
        let base = address("https://me:p%40ss@mirror.example:8443/models/?token=secret#x");
        let file = base.file("a.pth");
        assert_eq!(file.to_string(), "https://mirror.example:8443/models/a.pth?...");
        assert_eq!(file.request(), "https://mirror.example:8443/models/a.pth?token=secret");
        // echo -n 'me:p@ss' | base64
        assert_eq!(file.authorization().as_deref(), Some("Basic bWU6cEBzcw=="));
        assert_eq!((file.host(), address("http://[::1]:80").host()), ("mirror.example", "::1"));
        assert_eq!(address("HTTP://h").file("f").to_string(), "http://h/f");
        for bad in [
            "",
            "mirror",
            "ftp://h/x",
            "file:///etc/passwd",
            "https://",
            "https:///x",
            "http://h:99999/x",
            "http://a b/",
        ] {
            assert_eq!(Address::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn redirects_go_on_where_they_may() {
        let from = address("https://u:p@h/a/b?q=1");
        for (location, to, keeps_password) in [
            ("https://other/x?y", "https://other/x?y", false),
            ("//other/x", "https://other/x", false),
            ("/x", "https://h/x", true),
            ("c?z#f", "https://h/a/c?z", true),
            ("?r", "https://h/a/b?r", true),
        ] {
            let followed = from.follow(location).unwrap();
            assert_eq!(
                (followed.request().as_str(), followed.authorization().is_some()),
                (to, keeps_password)
            );
        }
        assert_eq!(address("http://h/").follow("https://h/x").unwrap().request(), "https://h/x");
        for refused in ["http://h/x", "ftp://h/x", "file:///x", "javascript:x", "https://"] {
            assert!(from.follow(refused).is_err(), "{refused}");
        }
        assert!(
            from.follow("http://u:secret@h/x?secret")
                .unwrap_err()
                .ends_with("http://h/x?..., which is not encrypted")
        );
    }
}
