//! The bytes of a request, made once; each request changes at most its number in them.

use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::{answer::Asked, endpoint::Endpoint};

/// What each request asks.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub model: Option<String>,
    pub prompt: String,
    /// 0: `prompt` is a string. Else it is a list of this many.
    pub prompts: usize,
    pub max_tokens: Option<u32>,
    pub n: Option<u32>,
    pub stream: bool,
    /// Asks a stream for its count of tokens.
    pub usage: bool,
    /// Puts a number of `DIGITS` digits and a space before each prompt, so that no cache of a server knows it.
    pub unique: bool,
    /// Fields of the body beside these, or in their place.
    pub more: Map<String, Value>,
}

impl Question {
    pub fn asked(&self) -> Asked {
        match self.stream {
            true => Asked::Stream,
            false => Asked::Whole(self.prompts.max(1) * self.n.map_or(1, |n| n as usize)),
        }
    }

    /// The JSON, and where in it the numbers stand.
    fn body(&self) -> (String, Vec<usize>) {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            fields.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("model", self.model.clone().map(Value::from));
        set("max_tokens", self.max_tokens.map(Value::from));
        set("n", self.n.map(Value::from));
        set("stream", self.stream.then_some(Value::Bool(true)));
        let usage = serde_json::json!({"include_usage": true});
        set(
            "stream_options",
            (self.stream && self.usage).then_some(usage),
        );
        fields.extend(self.more.clone());
        let prompt = Value::from(self.prompt.as_str()).to_string();
        let mut body = r#"{"prompt":"#.to_owned();
        let mut numbers = Vec::new();
        body += if self.prompts > 0 { "[" } else { "" };
        for turn in 0..self.prompts.max(1) {
            body += if turn > 0 { "," } else { "" };
            if self.unique {
                numbers.push(body.len() + 1);
                body += &format!("\"{:0DIGITS$} {}", 0, prompt.get(1..).unwrap_or_default());
            } else {
                body += &prompt;
            }
        }
        body += if self.prompts > 0 { "]" } else { "" };
        let rest = Value::Object(fields).to_string();
        match rest.as_str() {
            "{}" => body.push('}'),
            rest => {
                body.push(',');
                body += rest.get(1..).unwrap_or_default();
            }
        }
        (body, numbers)
    }
}

/// A request, ready to be written.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    numbers: Vec<usize>,
}

impl Template {
    /// `headers` take the place of its own of the same name.
    pub fn new(
        endpoint: &Endpoint,
        question: &Question,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Self {
        let (body, numbers) = question.body();
        let accept = if question.stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        let own = [
            ("host", endpoint.authority.as_str()),
            ("user-agent", AGENT),
            ("accept", accept),
            ("content-type", "application/json"),
        ];
        let mut bytes = format!("POST {} HTTP/1.1\r\n", endpoint.path).into_bytes();
        let mut line = |name: &str, value: &[u8]| {
            for part in [name.as_bytes(), b": ", value, b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        };
        for (name, value) in own {
            if !headers.iter().any(|(known, _)| known == name) {
                line(name, value.as_bytes());
            }
        }
        for (name, value) in headers {
            line(name.as_str(), value.as_bytes());
        }
        line("content-length", body.len().to_string().as_bytes());
        bytes.extend_from_slice(b"\r\n");
        let start = bytes.len();
        bytes.extend_from_slice(body.as_bytes());
        Self {
            bytes,
            numbers: numbers.into_iter().map(|at| start + at).collect(),
        }
    }

    /// Request `number`'s bytes; `scratch` is a copy that its caller keeps from one request to the next.
    pub fn bytes<'a>(&'a self, number: u64, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        if self.numbers.is_empty() {
            return &self.bytes;
        }
        if scratch.len() != self.bytes.len() {
            scratch.clone_from(&self.bytes);
        }
        let count = self.numbers.len() as u64;
        for (turn, &at) in (0..).zip(&self.numbers) {
            let number = number.wrapping_mul(count).wrapping_add(turn) % LIMIT;
            let digits = format!("{number:0DIGITS$}");
            if let Some(place) = scratch.get_mut(at..at + DIGITS) {
                place.copy_from_slice(digits.as_bytes());
            }
        }
        scratch
    }
}

/// A header as `-H` has it: `name: value`.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let expected = || "expected is `name: value`".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name: HeaderName = name.trim().parse().map_err(|_| expected())?;
    if name == "content-length" || name == "transfer-encoding" {
        return Err("how the body is framed is not for -H".to_owned());
    }
    let value = value.trim().parse().map_err(|_| expected())?;
    Ok((name, value))
}

/// A prompt of exactly this many bytes.
pub fn prompt(bytes: usize) -> String {
    TEXT.chars().cycle().take(bytes).collect()
}

/// ASCII: a character is a byte.
const TEXT: &str = "Write a tagline for an ice cream shop. ";
const AGENT: &str = concat!("pingora-completions-bench/", env!("CARGO_PKG_VERSION"));
const DIGITS: usize = 12;
/// `10^DIGITS`.
const LIMIT: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::parse("http://h:1/v1").unwrap()
    }

    fn body_of(template: &Template, number: u64) -> Value {
        let mut scratch = Vec::new();
        let bytes = template.bytes(number, &mut scratch);
        let text = std::str::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn a_body_has_what_was_asked_for_and_nothing_else() {
        let bare = Question {
            prompt: "a \"b\"".into(),
            ..Question::default()
        };
        assert_eq!(
            body_of(&Template::new(&endpoint(), &bare, &[]), 0),
            serde_json::json!({"prompt": "a \"b\""})
        );
        let full = Question {
            model: Some("m".into()),
            prompt: "p".into(),
            prompts: 2,
            max_tokens: Some(5),
            n: Some(3),
            stream: true,
            usage: true,
            more: serde_json::from_str(r#"{"n":4,"ignore_eos":true}"#).unwrap(),
            ..Question::default()
        };
        assert_eq!(
            body_of(&Template::new(&endpoint(), &full, &[]), 0),
            serde_json::json!({"model": "m", "prompt": ["p", "p"], "max_tokens": 5, "n": 4, "stream": true,
                "stream_options": {"include_usage": true}, "ignore_eos": true})
        );
        assert_eq!(full.asked(), Asked::Stream);
        assert_eq!(
            Question {
                stream: false,
                ..full
            }
            .asked(),
            Asked::Whole(6)
        );
    }

    #[test]
    fn each_prompt_of_unique_requests_is_another() {
        let question = Question {
            prompt: "p".into(),
            prompts: 2,
            unique: true,
            ..Question::default()
        };
        let template = Template::new(&endpoint(), &question, &[]);
        let prompts = |number| body_of(&template, number)["prompt"].clone();
        assert_eq!(
            prompts(0),
            serde_json::json!(["000000000000 p", "000000000001 p"])
        );
        assert_eq!(
            prompts(7),
            serde_json::json!(["000000000014 p", "000000000015 p"])
        );
        assert_eq!(prompts(u64::MAX)[0].as_str().unwrap().len(), 14);
        let mut scratch = Vec::new();
        let first = template.bytes(1, &mut scratch).to_vec();
        assert_ne!(first, template.bytes(2, &mut scratch));
    }

    #[test]
    fn headers_take_the_place_of_its_own() {
        let headers = [header("Host: other").unwrap(), header("x-a: b:c ").unwrap()];
        let template = Template::new(&endpoint(), &Question::default(), &headers);
        let text = String::from_utf8(template.bytes).unwrap();
        assert!(
            text.starts_with("POST /v1/completions HTTP/1.1\r\nuser-agent: "),
            "{text}"
        );
        assert!(text.contains("\r\nhost: other\r\nx-a: b:c\r\n"), "{text}");
        for wrong in ["x", "a b: c", "x: a\r\nb: c", "content-length: 5", ": v"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_prompt_has_the_bytes_that_were_asked_for() {
        for bytes in [0, 1, 39, 100, 1 << 20] {
            assert_eq!(prompt(bytes).len(), bytes);
        }
    }
}
