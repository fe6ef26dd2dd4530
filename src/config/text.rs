//! The short texts of a conf file: each is read by one function, so that the parser's error carries line and path.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{
    config::AllowedHost,
    dialect::{self, Dialect},
    provider::{Auth, Base},
};

/// Declares a type that is read from a text by one function, so that the parser's error carries line and path.
macro_rules! text {
    ($name:ident, $inner:ty, $read:expr) => {
        pub struct $name(pub $inner);
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                $read(text.as_str()).map($name).map_err(D::Error::custom)
            }
        }
    };
}

text!(BaseText, Base, |text: &str| Base::try_new(text, "base_url")
    .map_err(|error| error.message().to_owned()));
text!(HostText, AllowedHost, AllowedHost::try_new);
text!(DurationText, Duration, read_duration);
text!(DialectText, &'static dyn Dialect, |text: &str| {
    dialect::by_name(text).ok_or_else(|| {
        let names: Vec<&str> = dialect::DIALECTS
            .iter()
            .map(|dialect| dialect.name())
            .collect();
        format!(
            "unknown dialect `{text}`, expected one of {}",
            names.join(", ")
        )
    })
});

pub struct AuthText(pub Auth);

impl<'de> Deserialize<'de> for AuthText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected `bearer`, `none` or `header: NAME`")]
        enum Either {
            Word(String),
            Named { header: String },
        }
        match Either::deserialize(deserializer)? {
            Either::Word(word) if word == "bearer" => Ok(Self(Auth::Bearer)),
            Either::Word(word) if word == "none" => Ok(Self(Auth::None)),
            Either::Word(_) => Err(D::Error::custom(
                "expected `bearer`, `none` or `header: NAME`",
            )),
            Either::Named { header } => header
                .parse()
                .map(|name| Self(Auth::Header(name)))
                .map_err(|_| D::Error::custom("`header` must be a header name")),
        }
    }
}

/// `250ms`, `2s`, `5m`.
fn read_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: Option<u64> = digits.parse().ok();
    let unit = text.get(digits.len()..).unwrap_or_default();
    match (number, unit) {
        (Some(0), _) => Err("a time must be more than 0".to_owned()),
        (Some(number), "ms") => Ok(Duration::from_millis(number)),
        (Some(number), "s") => Ok(Duration::from_secs(number)),
        (Some(number), "m") => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!(
            "`{text}` is not a time, expected a number and ms, s or m, such as 500ms"
        )),
    }
}
