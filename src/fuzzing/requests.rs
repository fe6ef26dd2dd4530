//! What clients send: heads, configs and bodies, each on its way through the whole of the gateway to the calls that it comes to.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, uri::PathAndQuery};

use super::{
    check::{self, CLIENT_KEY, CONF_KEY},
    conf,
    heads::LIMITS,
    input::Input,
};
use crate::{
    completion::CompletionRequest,
    depth::MAX_DEPTH,
    error::Error,
    exchange::{Exchange, Seed, Work},
    front::Came,
    gateway::{Admission, COMPLETIONS, Completing, FIM_COMPLETIONS, Head, State},
    head::check_fields,
    passage::Passage,
    route::{Balanced, plan::Facts},
};

/// The body of a completion, at any provider.
pub fn request(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let provider = provider(&mut input);
    let how = input.byte();
    let body = input.rest();
    if let Ok(read) = CompletionRequest::read(Bytes::copy_from_slice(body)) {
        within_the_page(&read);
    }
    let mut headers = client(&provider);
    let word = HeaderValue::from_static;
    if how & 1 != 0 {
        headers.insert("x-completions-unsupported", word("drop"));
    }
    let approach = ["message", "continue", "prefill"];
    if let Some(approach) = approach.get(usize::from(how >> 1 & 3)) {
        headers.insert("x-completions-prompt-as", word(approach));
    }
    let path = if how & 8 == 0 {
        COMPLETIONS
    } else {
        FIM_COMPLETIONS
    };
    for completing in complete(path, &headers, body) {
        let most = body.len().saturating_mul(4).saturating_add(4096);
        goes_out(completing, |exchange| {
            let length = exchange.body().len();
            assert!(length <= most, "{length} bytes");
        });
    }
}

/// What a request that was read is held to: the page's ranges, and a depth that other readers bear.
fn within_the_page(request: &CompletionRequest) {
    assert!((1..=128).contains(&request.n.unwrap_or(1)));
    assert!(request.stop.len() <= 32);
    assert!(request.model().len() <= 1024);
    let within = |value: Option<f64>, least: f64, most: f64| {
        value.is_none_or(|value| (least..=most).contains(&value))
    };
    assert!(within(request.temperature, 0.0, 2.0) && within(request.top_p, 0.0, 1.0));
    let extras = request
        .extra
        .values()
        .map(|value| check::deepest(value.get().as_bytes()));
    assert!(extras.max().unwrap_or_default() < MAX_DEPTH);
}

/// `x-portkey-config`, and the targets that it comes to.
pub fn config(bytes: &[u8]) {
    let Ok(text) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let mut headers = client("openai");
    headers.remove("x-portkey-provider");
    headers.insert("x-portkey-config", text);
    for completing in complete(COMPLETIONS, &headers, BODY) {
        goes_out(completing, |_| {});
    }
}

/// A whole head: method, path with query, then headers, one a line.
pub fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let mut words = first.splitn(2, |&byte| byte == b' ');
    let Ok(method) = Method::from_bytes(words.next().unwrap_or_default()) else {
        return;
    };
    let Ok(target) = PathAndQuery::try_from(words.next().unwrap_or_default()) else {
        return;
    };
    // What the door refuses gets no further, whichever way it came.
    let way = target.as_str();
    if check_fields("GET", way, None, &HeaderMap::new(), LIMITS).is_err() {
        return;
    }
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let read = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
        if let (Ok(name), Ok(value)) = read {
            headers.append(name, value);
        }
    }
    let head = Head {
        method: &method,
        path: target.path(),
        query: target.query(),
        headers: &headers,
    };
    let host = headers.get("host").and_then(|host| host.to_str().ok());
    let came = Came {
        host: host.unwrap_or_default(),
        port: Some(8787),
    };
    match conf::state().front(head, came, None) {
        Ok(Some(passage)) => passes(&passage),
        Ok(None) => {}
        Err(error) => check::error(&error, CONF_KEY),
    }
    match conf::state().admit(head, None) {
        Ok(Admission::Pass(passage)) => passes(&passage),
        Ok(Admission::Answer(_)) => {}
        Ok(Admission::Complete(_)) => {
            for completing in complete(target.path(), &headers, BODY) {
                goes_out(completing, |_| {});
            }
        }
        Err(error) => check::error(&error, CONF_KEY),
    }
}

fn passes(passage: &Passage) {
    // A client's own path passes as it came, characters outside ASCII too.
    let no_control = |byte: u8| byte > b' ' && byte != 0x7f && byte != b'#';
    let path = &passage.path;
    assert!(
        path.bytes().all(no_control) && path.starts_with('/'),
        "{path:?}"
    );
    let host = &passage.target.base.host;
    for (name, value) in &passage.headers {
        keeps_secrets(host, name, value);
    }
}

/// What a completion comes to at the first targets of its plan.
pub fn complete(path: &str, headers: &HeaderMap, body: &[u8]) -> Vec<Completing> {
    let planned = planned(conf::state(), path, headers, body);
    let mut completing = Vec::new();
    for planned in planned.unwrap_or_else(|error| vec![Err(error)]) {
        match planned {
            Ok(planned) => completing.push(planned),
            Err(error) => check::error(&error, CONF_KEY),
        }
    }
    completing
}

fn planned(
    state: &State,
    path: &str,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Vec<Result<Completing, Error>>, Error> {
    let head = Head {
        method: &Method::POST,
        path,
        query: None,
        headers,
    };
    let Admission::Complete(directives) = state.admit(head, None)? else {
        return Ok(Vec::new());
    };
    let mut last = |balanced: &Balanced, _: &Facts<'_>| balanced.targets.len().saturating_sub(1);
    let plan = state.plan(&directives, head, body, &mut last)?;
    let seed = Seed {
        now: 1_700_000_000,
        draw: 7,
    };
    let body = Bytes::copy_from_slice(body);
    let attempts = plan.iter().take(MOST_ATTEMPTS);
    Ok(attempts
        .map(|attempt| state.complete(&directives, &attempt.leaf, headers, body.clone(), seed))
        .collect())
}

/// Looks at the first calls of a completion, each as it goes upstream.
fn goes_out(completing: Completing, also: impl Fn(&Exchange)) {
    let mut one = Vec::new();
    let mut several = None;
    match completing.work {
        Work::One(exchange) => one.push(*exchange),
        Work::Many(calls) => several = Some(calls),
    }
    let parts = several
        .as_mut()
        .map_or(&mut *one, |calls| calls.parts_mut());
    for exchange in parts.iter().take(MOST_CALLS) {
        goes_upstream(exchange);
        also(exchange);
    }
}

fn goes_upstream(exchange: &Exchange) {
    is_path(&exchange.path());
    let body = exchange.body();
    assert!(
        check::deepest(body) <= MAX_DEPTH + 8,
        "{} deep",
        check::deepest(body)
    );
    let object = check::json(body).is_none_or(|body| body.is_object());
    assert!(object, "{}", check::show(body));
    let base = &exchange.target().base;
    match exchange.headers() {
        Ok(headers) => {
            assert_eq!(headers.get("host"), Some(base.host_header()));
            assert!(headers.get_all("authorization").iter().count() <= 1);
            for (name, value) in &headers {
                keeps_secrets(&base.host, name, value);
            }
        }
        Err(error) => check::error(&error, CONF_KEY),
    }
}

/// The conf's key goes to the conf's hosts alone; a client's goes where it belongs, and no header is the gateway's own.
fn keeps_secrets(host: &str, name: &HeaderName, value: &HeaderValue) {
    let holds = |key: &str| memchr::memmem::find(value.as_bytes(), key.as_bytes()).is_some();
    assert!(
        !holds(CONF_KEY) || conf::KEYED.contains(&host),
        "the conf's key for {host}"
    );
    assert!(!name.as_str().starts_with("x-portkey-"), "{name}");
    let framing = [
        "transfer-encoding",
        "connection",
        "upgrade",
        "te",
        "trailer",
        "cookie",
    ];
    assert!(!framing.contains(&name.as_str()), "{name}");
}

/// A path with its query, as a request line has it.
fn is_path(path: &str) {
    let plain = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    assert!(plain && path.starts_with('/'), "{path:?}");
    assert_eq!(
        path.parse::<PathAndQuery>()
            .map(|read| read.as_str().to_owned())
            .ok()
            .as_deref(),
        Some(path)
    );
}

pub fn provider(input: &mut Input<'_>) -> String {
    static NAMES: LazyLock<Vec<String>> =
        LazyLock::new(|| conf::state().config.providers.keys().cloned().collect());
    input.pick(&NAMES).cloned().unwrap_or_default()
}

/// The headers of a client that names `provider`, and all that any provider's place or credential wants.
pub fn client(provider: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let word = HeaderValue::from_static;
    headers.extend(
        HeaderValue::from_str(provider)
            .map(|value| (HeaderName::from_static("x-portkey-provider"), value)),
    );
    let key = format!("Bearer {CLIENT_KEY}");
    headers.extend(
        HeaderValue::from_str(&key).map(|value| (HeaderName::from_static("authorization"), value)),
    );
    for slot in conf::state()
        .config
        .providers
        .get(provider)
        .iter()
        .flat_map(|provider| provider.place.slots())
    {
        headers.insert(HeaderName::from_static(slot.header), word(slot.example));
    }
    headers
}

const BODY: &[u8] = br#"{"model":"m","prompt":"hi","max_tokens":5}"#;
/// Targets of one plan that are looked at.
const MOST_ATTEMPTS: usize = 4;
/// Calls of one completion that are looked at.
const MOST_CALLS: usize = 4;
