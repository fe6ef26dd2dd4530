//! A provider's answer on its way through Pingora's phases: each piece of its body becomes the client's.

use bytes::Bytes;
use pingora::proxy::Session;

use crate::{
    context::{Call, Context},
    downstream::{self, is_answered},
    error::Error,
    mishap::contain_now,
};

/// Puts the client's piece in the place of the provider's. `Err`: why the answer ends here; what its client still gets for
/// it is in `context` by then.
pub fn relay(
    session: &mut Session,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
    context: &mut Context,
) -> Result<(), Error> {
    let relayed = contain_now(|| relay_piece(session, body, end_of_stream, context));
    relayed.unwrap_or_else(|broken| {
        let Call::Complete(exchange) = &context.call else {
            return Err(broken);
        };
        if is_answered(session) && exchange.is_streaming() {
            // The relay broke in the middle of its work: the client is told without it.
            let last = context
                .handed
                .rest(session.body_bytes_sent(), broken.event().into());
            context.last_words = Some(last);
        }
        Err(broken)
    })
}

fn relay_piece(
    session: &mut Session,
    body: &mut Option<Bytes>,
    end_of_stream: bool,
    context: &mut Context,
) -> Result<(), Error> {
    let Call::Complete(exchange) = &mut context.call else {
        return Ok(());
    };
    let Some(relay) = exchange.relay_mut() else {
        return Ok(());
    };
    let out = relay.push(body.take().unwrap_or_default());
    let failed = relay.failure().cloned().filter(|_| relay.is_stream());
    if end_of_stream {
        let rest = relay.finish().unwrap_or_else(|error| error.body().into());
        let failed = relay.failure().cloned().filter(|_| relay.is_stream());
        if let Some(error) = failed.filter(|_| !is_answered(session)) {
            return Err(error);
        }
        *body = Some(join(out, rest));
    } else if let Some(error) = failed {
        // The client has been told in `out`; going on would only read what nobody gets. Stopping throws away what was
        // handed back and is not written yet.
        context.last_words = Some(context.handed.rest(session.body_bytes_sent(), out));
        return Err(error);
    } else {
        *body = Some(out).filter(|out| !out.is_empty());
    }
    context
        .handed
        .note(session.body_bytes_sent(), body.as_ref());
    let refusal = relay.failure().filter(|_| !relay.is_stream());
    let refusal = refusal.map(Error::status);
    match context.held.take_if(|_| body.is_some()) {
        Some(head) => downstream::write_head_now(session, head, refusal),
        None => Ok(()),
    }
}

/// Two outputs as one; nearly always one of them is empty.
fn join(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (_, true) => first,
        (true, false) => second,
        (false, false) => [first, second].concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;
    use http::{HeaderValue, StatusCode, header};
    use pingora::{http::ResponseHeader, server::configuration::ServerConf};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::{
        config::Config,
        edition::Edition,
        error::Kind,
        exchange::{UpstreamHead, faulty},
    };

    fn context() -> Context {
        let mut exchange = faulty::exchange("https://api.openai.com/v1");
        let stream = HeaderValue::from_static("text/event-stream");
        let head = UpstreamHead {
            status: StatusCode::OK,
            headers: &[(header::CONTENT_TYPE, stream)].into_iter().collect(),
        };
        exchange.answer(head).unwrap();
        let edition = Edition::first(Config::default(), &ServerConf::default()).unwrap();
        let edition = ArcSwap::from_pointee(edition).load_full();
        let mut context = Context::new(1, edition);
        context.call = Call::Complete(exchange);
        context
    }

    async fn session() -> (Session, DuplexStream) {
        let (mut client, server) = duplex(1 << 16);
        let request = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        client.write_all(request).await.unwrap();
        let mut session = Session::new_h1(Box::new(server));
        assert!(session.read_request().await.unwrap());
        (session, client)
    }

    // faults.md, row 30.
    #[tokio::test]
    async fn a_panic_in_the_middle_of_a_stream_is_told_behind_what_came_before_it() {
        let event = |text: &str| {
            Bytes::from(format!(
                "data: {{\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":[{{\"text\":\"{text}\",\"index\":0,\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
            ))
        };
        let worse = Bytes::from_static(b"data: worse\n\n");
        let (mut session, _client) = session().await;
        let mut context = context();
        // Nothing is out: its status tells it.
        let mut before = Some(worse.clone());
        let told = relay(&mut session, &mut before, false, &mut context).unwrap_err();
        assert_eq!(told.kind(), Kind::Internal);
        assert!(context.last_words.is_none());

        let mut context = self::context();
        let mut head = ResponseHeader::build(200, None).unwrap();
        head.insert_header("transfer-encoding", "chunked").unwrap();
        let client = session.as_downstream_mut();
        client.write_response_header(Box::new(head)).await.unwrap();
        let mut piece = Some(event("a"));
        relay(&mut session, &mut piece, false, &mut context).unwrap();
        let handed = piece.unwrap();
        // It was handed over, and is not written yet.
        let mut piece = Some(worse);
        let told = relay(&mut session, &mut piece, false, &mut context).unwrap_err();
        assert_eq!(told.kind(), Kind::Internal);
        let last = context.last_words.unwrap();
        assert!(last.starts_with(&handed), "{last:?}");
        let rest = std::str::from_utf8(&last[handed.len()..]).unwrap();
        assert!(rest.starts_with("data: {\"error\":") && rest.ends_with("}\n\n"));
        assert!(!rest.contains("worse"));
    }
}
