//! Where a call goes and as whom: one row per provider, built in or declared in YAML.

pub mod auth;
pub mod azure;
pub mod base;
pub mod credential;
pub mod google;
pub mod grant;
pub mod listing;
pub mod oci;
mod rsa;
pub mod sigv4;
pub mod sts;
pub mod table;
pub mod target;

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::{completion::Parameter, dialect::Dialect};

pub use self::{
    auth::{Auth, Secret},
    base::Base,
    credential::Credential,
    target::Target,
};

/// One built-in provider.
#[derive(Debug)]
pub struct Row {
    /// Portkey's slug.
    pub name: &'static str,
    /// Scheme, host and the path below which the API's own paths start. Empty: there is no public host, a conf names one.
    pub base_url: &'static str,
    pub dialect: &'static dyn Dialect,
    pub auth: Auth,
    /// What this provider lacks of its dialect.
    pub refuses: &'static [Parameter],
}

/// A provider as the gateway calls it: a row, with the conf's word over it.
#[derive(Clone, Debug)]
pub struct Provider {
    pub name: String,
    /// `None`: no conf gave the host that this provider needs.
    pub base: Option<Arc<Base>>,
    pub dialect: &'static dyn Dialect,
    pub auth: Auth,
    /// The conf's; it goes to the conf's host alone.
    pub credential: Option<Credential>,
    /// Sent with every call.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub refuses: &'static [Parameter],
    /// For requests that name no model.
    pub default_model: Option<String>,
}
