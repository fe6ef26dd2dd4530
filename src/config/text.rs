//! The short texts of a conf file: each is read by one function, so that the parser's error carries line and path.

use std::{collections::BTreeMap, marker::PhantomData, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

use crate::{
    completion::Parameter,
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
text!(UrlText, Base, |text: &str| Base::try_new(text, "url")
    .map_err(|error| error.message().to_owned()));
text!(DurationText, Duration, read_duration);
text!(ModeText, u32, read_mode);
text!(MaybeDuration, Option<Duration>, |text: &str| match text {
    "none" => Ok(None),
    time => read_duration(time).map(Some),
});
text!(ParameterText, Parameter, |text: &str| {
    let mut all = Parameter::ALL.into_iter();
    all.find(|parameter| parameter.title() == text)
        .ok_or_else(|| {
            let titles = Parameter::ALL.map(Parameter::title);
            format!("unknown parameter, expected one of {}", titles.join(", "))
        })
});
text!(DialectText, &'static dyn Dialect, |text: &str| {
    // What stands there is not said again: it can be a key in the wrong place.
    dialect::by_name(text).ok_or_else(|| {
        let names: Vec<&str> = dialect::DIALECTS
            .iter()
            .map(|dialect| dialect.name())
            .collect();
        format!("unknown dialect, expected one of {}", names.join(", "))
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
    let time = match (number, unit) {
        (Some(number), "ms") => Duration::from_millis(number),
        (Some(number), "s") => Duration::from_secs(number),
        (Some(number), "m") => Duration::from_secs(number.saturating_mul(60)),
        _ => {
            return Err(format!(
                "`{text}` is not a time, expected a number and ms, s or m, such as 500ms"
            ));
        }
    };
    if time.is_zero() {
        return Err("a time must be more than 0".to_owned());
    }
    // Far longer ones are in no clock's range.
    if time > YEAR {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(time)
}

const YEAR: Duration = Duration::from_hours(365 * 24);

/// Permissions as `chmod` takes them, of a file that others may read and nobody else write or run.
fn read_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    let is_one = |mode: &u32| mode & 0o400 != 0 && mode & !0o644 == 0 && text.len() >= 3;
    mode.filter(is_one).ok_or_else(|| {
        format!("`{text}` is no mode of a file of a secret, expected one such as \"0600\", \"0440\" or \"0444\"")
    })
}

/// A mapping in which no key stands twice: the parser itself would let the last one win.
pub struct Unique<V>(pub BTreeMap<String, V>);

impl<V> Default for Unique<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = Unique<V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut unique = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if unique.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` is named twice")));
                    }
                    unique.insert(name, map.next_value()?);
                }
                Ok(Unique(unique))
            }
        }
        deserializer.deserialize_map(Keys(PhantomData))
    }
}
