//! The keys that the gateway gives to its clients: who asks, and what they may ask for.
//!
//! Only a key's SHA-256 is held. That is enough for keys of 256 random bits, which nobody can guess; slow hashes are for
//! passwords, which people make up. A key is looked up by eight bytes of its hash, and the rest is compared in constant time,
//! with a hash of nobody's where there is none: what an unknown key costs, and how many there are, shows nothing.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    str::FromStr,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    HeaderMap, Method,
    header::{AUTHORIZATION, HeaderName},
};
use ring::digest;
use subtle::ConstantTimeEq;

use crate::{
    error::{Error, Kind},
    pattern,
    provider::{Credential, Secret},
};

/// The hash under which a conf holds a client's key: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyHash([u8; HASH_BYTES]);

impl KeyHash {
    pub fn of(key: &str) -> Self {
        let mut hash = [0; HASH_BYTES];
        // Both have the length of SHA-256.
        hash.iter_mut()
            .zip(digest::digest(&digest::SHA256, key.as_bytes()).as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(hash)
    }

    fn place(&self) -> [u8; PLACE_BYTES] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What stands in a conf stays there.
impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[hash]")
    }
}

impl FromStr for KeyHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The text is not said again: it can be a key in the wrong place.
        let wrong = "expected `sha256:` and 64 hexadecimal digits, as `--hash-key` prints them";
        let digits = text.strip_prefix(PREFIX).ok_or(wrong)?;
        let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let mut hash = [0; HASH_BYTES];
        if !is_hex || digits.len() != HASH_BYTES * 2 {
            return Err(wrong);
        }
        for (at, byte) in hash.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or(wrong)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong)?;
        }
        Ok(Self(hash))
    }
}

/// A new key of `entropy`, which has to be as random as the system can make it.
pub fn new_key(entropy: [u8; 32]) -> String {
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(entropy))
}

/// A client's key, and what its holder may ask for. A list that is `None` limits nothing; an empty one allows nothing.
#[derive(Clone, Debug)]
pub struct VirtualKey {
    pub name: String,
    pub tenant: Option<String>,
    /// Unix seconds; from then on it is refused.
    pub expires: Option<u64>,
    pub providers: Option<Vec<String>>,
    /// Names or patterns.
    pub models: Option<Vec<String>>,
    /// Saved configs that its holder may name, and that are used as they are.
    pub configs: Option<Vec<String>>,
    /// By provider: what is used there in place of the conf's own.
    pub provider_keys: BTreeMap<String, Credential>,
}

impl VirtualKey {
    pub fn check_provider(&self, name: &str) -> Result<(), Error> {
        match is_listed(self.providers.as_ref(), name) {
            true => Ok(()),
            false => Err(not_allowed("provider", name)),
        }
    }

    pub fn check_model(&self, name: &str) -> Result<(), Error> {
        let fits = |patterns: &Vec<String>| patterns.iter().any(|own| pattern::matches(own, name));
        match self.models.as_ref().is_none_or(fits) {
            true => Ok(()),
            false => Err(not_allowed("model", name).with_param("model")),
        }
    }

    /// Fields by which some providers are asked for another model than `model`.
    pub fn check_field(&self, name: &str) -> Result<(), Error> {
        if self.models.is_none() || !MODEL_FIELDS.contains(&name) {
            return Ok(());
        }
        let message =
            format!("This API key is limited to models, and `{name}` could name another.");
        Err(Error::new(Kind::NotAllowed, message).with_param(name.to_owned()))
    }

    pub fn check_config(&self, name: &str) -> Result<(), Error> {
        match is_listed(self.configs.as_ref(), name) {
            true => Ok(()),
            false => Err(not_allowed("config", name)),
        }
    }

    /// Requests of other paths are passed on unread, so that nobody knows which model they ask for. A list of models asks for none.
    pub fn check_passage(&self, method: &Method, path: &str) -> Result<(), Error> {
        let is_list = matches!(*method, Method::GET | Method::HEAD) && path == "/v1/models";
        match self.models.is_none() || is_list {
            true => Ok(()),
            false => Err(Error::new(Kind::NotAllowed, UNREAD)),
        }
    }

    /// Whether a saved config is the operator's own word on what this key may do.
    pub fn trusts_config(&self, name: &str) -> bool {
        self.configs.is_some() && self.check_config(name).is_ok()
    }

    /// Whether there is anything to check of a target.
    pub fn limits_targets(&self) -> bool {
        self.providers.is_some() || self.models.is_some()
    }
}

fn is_listed(list: Option<&Vec<String>>, name: &str) -> bool {
    list.is_none_or(|list| list.iter().any(|own| own == name))
}

fn not_allowed(kind: &str, name: &str) -> Error {
    let message = format!("This API key may not use the {kind} `{name}`.");
    Error::new(Kind::NotAllowed, message)
}

/// All keys of a conf.
#[derive(Clone, Default)]
pub struct VirtualKeys {
    by_hash: HashMap<[u8; PLACE_BYTES], Held>,
}

#[derive(Clone)]
struct Held {
    hash: KeyHash,
    key: Arc<VirtualKey>,
}

impl fmt::Debug for VirtualKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.by_hash.values().map(|held| &held.key);
        f.debug_list().entries(keys).finish()
    }
}

/// Who sent a request, and in which of its headers the key stood: it goes to nobody else.
#[derive(Debug)]
pub struct Identity {
    pub key: Arc<VirtualKey>,
    pub carriers: Vec<HeaderName>,
}

impl VirtualKeys {
    /// Err: the name under which the same key stands already.
    pub fn insert(&mut self, hash: KeyHash, key: VirtualKey) -> Result<(), String> {
        if let Some(held) = self.by_hash.get(&hash.place()) {
            return Err(held.key.name.clone());
        }
        let key = Arc::new(key);
        self.by_hash.insert(hash.place(), Held { hash, key });
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    fn find(&self, key: &str) -> Option<&Arc<VirtualKey>> {
        let hash = KeyHash::of(key);
        let held = self.by_hash.get(&hash.place());
        let expected = held.map_or(&NOBODY, |held| &held.hash);
        let is_same = bool::from(expected.0.ct_eq(&hash.0));
        held.filter(|_| is_same).map(|held| &held.key)
    }

    /// Whether `key` is one of the gateway's, now or once.
    pub fn holds(&self, key: &str) -> bool {
        !self.is_empty() && (key.starts_with(MARK) || self.find(key).is_some())
    }

    /// Who sent `headers`; `None`: they have no key of the gateway's. `now`: Unix seconds. Err: 401, for a key of the gateway's that
    /// is not valid any more; 400, for a header that is there twice, and for two keys.
    pub fn identify(&self, headers: &HeaderMap, now: u64) -> Result<Option<Identity>, Error> {
        let mut found: Option<Identity> = None;
        for name in &CARRIERS {
            let Some(sent) = sent(headers, name)? else {
                continue;
            };
            match (self.find(sent.expose()), &mut found) {
                // One that was taken back is nobody's, and no provider's.
                (None, _) if sent.expose().starts_with(MARK) => return Err(refused(WRONG_KEY)),
                // The client's own, for its provider.
                (None, _) => {}
                (Some(key), None) => {
                    found = Some(Identity {
                        key: Arc::clone(key),
                        carriers: vec![name.clone()],
                    });
                }
                (Some(key), Some(before)) if Arc::ptr_eq(key, &before.key) => {
                    before.carriers.push(name.clone());
                }
                (Some(_), Some(_)) => {
                    let message = "The request has two API keys of this gateway.";
                    return Err(Error::invalid(name.as_str(), message));
                }
            }
        }
        match found {
            Some(Identity { key, .. }) if key.expires.is_some_and(|end| end <= now) => {
                Err(refused("The API key has expired."))
            }
            found => Ok(found),
        }
    }
}

/// What a request is told that needs a key of the gateway's and has none.
pub fn unidentified(headers: &HeaderMap) -> Error {
    let has_other = CARRIERS.iter().any(|name| headers.contains_key(name));
    refused(if has_other { WRONG_KEY } else { NO_KEY })
}

/// The key that a header holds. A header that is there twice is refused: two readers could disagree.
fn sent(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Secret>, Error> {
    let mut values = headers.get_all(name).iter();
    let value = values.next();
    if values.next().is_some() {
        let message = format!("The header `{name}` is given more than once.");
        return Err(Error::invalid(name.as_str().to_owned(), message));
    }
    let Some(text) = value.and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    match *name == AUTHORIZATION {
        true => Ok(Secret::from_authorization(text)),
        false => Ok(Secret::try_new(text)),
    }
}

/// With the type that OpenAI has for it.
fn refused(message: &'static str) -> Error {
    Error::new(Kind::Unauthorized, message).with_type("invalid_request_error")
}

const HASH_BYTES: usize = 32;
/// Enough that two keys never share a place.
const PLACE_BYTES: usize = 8;
/// Compared with where a key is nobody's: the hash of nothing that is known.
const NOBODY: KeyHash = KeyHash([0; HASH_BYTES]);
const PREFIX: &str = "sha256:";
/// Of every key that the gateway makes.
const MARK: &str = "pc-";
/// Where clients put their keys: OpenAI's SDKs, Portkey's, and those of vendors whose own headers these are.
static CARRIERS: [HeaderName; 5] = [
    AUTHORIZATION,
    HeaderName::from_static("x-portkey-api-key"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];
/// OpenRouter's list of models to fall back to; LoRAX' and Predibase's adapter.
const MODEL_FIELDS: &[&str] = &["models", "adapter_id"];
const UNREAD: &str = "This API key is limited to models, which the gateway reads in completions alone: this path is passed on unread.";
const WRONG_KEY: &str = "Incorrect API key provided.";
const NO_KEY: &str =
    "You didn't provide an API key. Send this gateway's key as `Authorization: Bearer YOUR_KEY`.";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> VirtualKey {
        VirtualKey {
            name: name.to_owned(),
            tenant: None,
            expires: None,
            providers: None,
            models: None,
            configs: None,
            provider_keys: BTreeMap::new(),
        }
    }

    fn keys(held: &[(&str, VirtualKey)]) -> VirtualKeys {
        let mut keys = VirtualKeys::default();
        for (text, key) in held {
            keys.insert(KeyHash::of(text), key.clone()).unwrap();
        }
        keys
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn list(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        // FIPS 180-4's own example.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(KeyHash::of("abc").to_string(), text);
        assert_eq!(text.parse(), Ok(KeyHash::of("abc")));
        assert_eq!(
            text.to_uppercase().replace("SHA", "sha").parse(),
            Ok(KeyHash::of("abc"))
        );
        let plus = text.replace(":b", ":+");
        for wrong in [
            "",
            "abc",
            &text[7..],
            &text[..70],
            &plus,
            &format!("{text}0"),
            "sha256:é",
        ] {
            assert!(wrong.parse::<KeyHash>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_new_key_is_marked_and_holds_all_its_entropy() {
        assert_eq!(new_key([0; 32]), format!("pc-{}", "A".repeat(43)));
        let all: std::collections::BTreeSet<String> = (0..32)
            .map(|at| {
                let mut entropy = [0; 32];
                entropy[at] = 1;
                new_key(entropy)
            })
            .collect();
        assert_eq!(all.len(), 32);
    }

    #[test]
    fn a_key_is_found_in_every_header_that_clients_use_and_in_no_other() {
        let keys = keys(&[("pc-1", key("one"))]);
        for (name, value) in [
            ("authorization", "Bearer pc-1"),
            ("authorization", "pc-1"),
            ("x-portkey-api-key", "pc-1"),
            ("x-api-key", "pc-1"),
            ("api-key", "pc-1"),
            ("x-goog-api-key", " pc-1 "),
        ] {
            let identity = keys
                .identify(&headers(&[(name, value)]), 0)
                .unwrap()
                .unwrap();
            assert_eq!(identity.key.name, "one");
            assert_eq!(identity.carriers, [name]);
        }
        for pairs in [
            &[][..],
            &[("cookie", "pc-1")],
            &[("authorization", "Bearer sk-1")],
            &[("authorization", "Basic pc-1")],
        ] {
            assert!(
                keys.identify(&headers(pairs), 0).unwrap().is_none(),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_keys_is_told_without_them() {
        let old = VirtualKey {
            expires: Some(100),
            ..key("old")
        };
        let keys = keys(&[("pc-canary-1", key("one")), ("pc-canary-2", old)]);
        let bearer = |text: &'static str| ("authorization", text);
        for (pairs, now, status, part) in [
            (&[bearer("Bearer pc-canary-3")][..], 0, 401, "Incorrect"),
            (
                &[bearer("Bearer pc-canary-1"), ("x-api-key", "pc-canary-3")],
                0,
                401,
                "Incorrect",
            ),
            (&[bearer("Bearer pc-canary-2")], 100, 401, "expired"),
            (
                &[bearer("Bearer pc-canary-1"), bearer("Bearer pc-canary-1")],
                0,
                400,
                "more than once",
            ),
            (
                &[bearer("pc-canary-1"), ("x-portkey-api-key", "pc-canary-2")],
                0,
                400,
                "two API keys",
            ),
        ] {
            let error = keys.identify(&headers(pairs), now).unwrap_err();
            assert_eq!(error.status(), status, "{pairs:?}");
            assert!(error.message().contains(part), "{}", error.message());
            assert!(!error.message().contains("canary"), "{}", error.message());
        }
        let at = |now| keys.identify(&headers(&[bearer("Bearer pc-canary-2")]), now);
        assert!(at(99).unwrap().is_some());
        let shown = format!("{keys:?}");
        assert!(
            shown.contains("one") && !shown.contains("canary"),
            "{shown}"
        );
        let hash = KeyHash::of("pc-canary-1");
        let (hex, debug) = (hash.to_string(), format!("{hash:?}"));
        assert!(!debug.contains(&hex[7..15]) && !shown.contains(&format!("{:?}", hash.place())));
    }

    #[test]
    fn the_clients_own_key_may_stand_beside() {
        let keys = keys(&[("pc-1", key("one"))]);
        let pairs = [
            ("authorization", "Bearer sk-own"),
            ("x-portkey-api-key", "pc-1"),
        ];
        let identity = keys.identify(&headers(&pairs), 0).unwrap().unwrap();
        assert_eq!(identity.carriers, ["x-portkey-api-key"]);
        let twice = [
            ("authorization", "Bearer pc-1"),
            ("x-portkey-api-key", "pc-1"),
        ];
        let identity = keys.identify(&headers(&twice), 0).unwrap().unwrap();
        assert_eq!(identity.carriers, ["authorization", "x-portkey-api-key"]);
    }

    #[test]
    fn the_same_key_cannot_be_two() {
        let mut keys = keys(&[("pc-1", key("one"))]);
        assert_eq!(
            keys.insert(KeyHash::of("pc-1"), key("two")),
            Err("one".to_owned())
        );
    }

    #[test]
    fn a_list_that_is_not_there_limits_nothing_and_an_empty_one_allows_nothing() {
        let some = VirtualKey {
            providers: list(&["openai"]),
            models: list(&["gpt-*", "tiny"]),
            configs: list(&["spread"]),
            ..key("some")
        };
        let none = VirtualKey {
            providers: list(&[]),
            models: list(&[]),
            configs: list(&[]),
            ..key("none")
        };
        let get = Method::GET;
        for (key, expected) in [(key("all"), [true; 4]), (none, [false; 4])] {
            let allowed = [
                key.check_provider("openai").is_ok(),
                key.check_model("gpt-4").is_ok(),
                key.check_config("spread").is_ok(),
                key.check_passage(&get, "/v1/files").is_ok(),
            ];
            assert_eq!(allowed, expected, "{}", key.name);
        }
        assert!(some.check_provider("openai").is_ok() && some.check_provider("openai2").is_err());
        assert!(some.check_model("gpt-4").is_ok() && some.check_model("GPT-4").is_err());
        assert!(some.trusts_config("spread") && !some.trusts_config("other"));
        assert!(!key("all").trusts_config("spread"), "it is not named");
        assert!(some.check_field("models").is_err() && some.check_field("top_k").is_ok());
        assert!(key("all").check_field("models").is_ok());
        let error = some.check_model("x").unwrap_err();
        assert_eq!(
            (error.status().as_u16(), error.param()),
            (403, Some("model"))
        );
    }

    #[test]
    fn of_passed_requests_a_list_of_models_lets_only_the_list_through() {
        let limited = VirtualKey {
            models: list(&["*"]),
            ..key("limited")
        };
        for (method, path, allowed) in [
            (Method::GET, "/v1/models", true),
            (Method::HEAD, "/v1/models", true),
            (Method::POST, "/v1/models", false),
            (Method::GET, "/v1/models/gemini:generateContent", false),
            (Method::POST, "/v1/chat/completions", false),
            (Method::GET, "/v1/files", false),
        ] {
            assert_eq!(
                limited.check_passage(&method, path).is_ok(),
                allowed,
                "{method} {path}"
            );
        }
    }
}
