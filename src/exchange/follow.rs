//! Answers that tell where the stream is: the second call of an exchange, and the one that ends its work.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONTENT_LENGTH, USER_AGENT},
};

use super::{Exchange, ReplyForm};
use crate::{
    dialect::{FollowUp, UpstreamRequest},
    error::Error,
    provider::Base,
};

/// The call that ends the work of another.
#[derive(Debug)]
pub struct Cancel {
    pub base: Arc<Base>,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
}

impl Exchange {
    /// The upstream's method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Whether the answer that comes next is to tell where the stream is.
    pub fn follows(&self) -> bool {
        let hosts = self.target.provider.dialect.stream_hosts();
        self.reply == ReplyForm::Stream && self.method == Method::POST && hosts.is_some()
    }

    /// Reads the answer that tells where the stream is.
    pub fn read_follow_up(&mut self, reply: &[u8]) -> Result<FollowUp, Error> {
        let dialect = self.target.provider.dialect;
        let told = dialect.read_follow_up(reply, &mut self.seed);
        told.map_err(|error| self.target.attribute(error))
    }

    /// The call that ends what was begun, at the address that the provider named for it.
    pub fn cancel(&self, url: &str) -> Result<Cancel, Error> {
        let (target, query) = self.target.followed(url, self.hosts())?;
        let mut headers: HeaderMap = target.headers()?.into_iter().collect();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
        Ok(Cancel {
            path: joined(&target.base.path, &query),
            base: target.base,
            headers,
        })
    }

    /// Turns to the stream, whose call is the next.
    pub fn follow(&mut self, url: &str) -> Result<(), Error> {
        let (mut target, query) = self.target.followed(url, self.hosts())?;
        let path = joined(&target.base.path, &query);
        target.base = Arc::new(target.base.with_path(""));
        self.target = Arc::new(target);
        self.method = Method::GET;
        self.request = UpstreamRequest {
            path: Cow::Owned(path),
            headers: &[],
            body: Bytes::new(),
        };
        Ok(())
    }

    fn hosts(&self) -> &'static [&'static str] {
        let hosts = self.target.provider.dialect.stream_hosts();
        hosts.unwrap_or_default()
    }
}

fn joined(path: &str, query: &str) -> String {
    let path = if path.is_empty() { "/" } else { path };
    match query {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}
