//! Microsoft Entra identities: an app with a secret, the machine's own, and a workload with a federated token.
//!
//! Sources: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow> (the first request with
//! a secret, the third with a federated credential) and
//! <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token#get-a-token-using-http>.
//!
//! The machine's and the workload's identity are the gateway's own: only a conf may choose them, never a client, and never
//! for a host that a client chose.

use std::sync::Arc;

use http::HeaderName;

use crate::{
    error::{Error, Kind},
    provider::{
        Base, FreshSecret, Secret,
        grant::{TokenRequest, encode},
    },
};

#[derive(Debug)]
pub struct Identity {
    endpoint: Arc<Base>,
    proof: Proof,
    scope: String,
}

#[derive(Debug)]
enum Proof {
    Secret(App, Secret),
    /// Its file is rewritten about once an hour.
    Federated(App, FreshSecret),
    /// The client id of a user-assigned identity; `None`: the system's.
    Machine(Option<String>),
}

#[derive(Debug)]
struct App {
    tenant: String,
    client_id: String,
}

impl Identity {
    /// An app with a client secret.
    pub fn entra(tenant: &str, client_id: &str, secret: Secret) -> Result<Self, Error> {
        Self::try_new(
            AUTHORITY,
            Proof::Secret(App::try_new(tenant, client_id)?, secret),
        )
    }

    /// A workload of Kubernetes, GitHub or another trusted issuer.
    pub fn workload(tenant: &str, client_id: &str, assertion: FreshSecret) -> Result<Self, Error> {
        let app = App::try_new(tenant, client_id)?;
        Self::try_new(AUTHORITY, Proof::Federated(app, assertion))
    }

    /// The machine's own identity.
    pub fn managed(client_id: Option<&str>) -> Result<Self, Error> {
        Self::try_new(METADATA, Proof::Machine(client_id.map(str::to_owned)))
    }

    fn try_new(endpoint: &str, proof: Proof) -> Result<Self, Error> {
        Ok(Self {
            endpoint: Arc::new(Base::try_new(endpoint, "authority")?),
            proof,
            scope: SCOPE.to_owned(),
        })
    }

    /// The same identity for another audience, such as `https://ai.azure.com/.default`.
    pub fn with_scope(mut self, scope: &str) -> Self {
        self.scope = scope.to_owned();
        self
    }

    /// The same identity at another cloud's authority, which a conf named.
    pub fn at(mut self, endpoint: Base) -> Self {
        self.endpoint = Arc::new(endpoint);
        self
    }

    pub(super) fn request(&self) -> Result<TokenRequest, Error> {
        match &self.proof {
            Proof::Secret(app, secret) => {
                Ok(self.exchange(app, &[("client_secret", secret.expose())]))
            }
            Proof::Federated(app, assertion) => {
                let message = "The workload's federated token cannot be read.";
                let token = assertion
                    .read()
                    .ok_or_else(|| Error::new(Kind::Internal, message))?;
                let proof = [
                    ("client_assertion_type", JWT_BEARER),
                    ("client_assertion", token.expose()),
                ];
                Ok(self.exchange(app, &proof))
            }
            Proof::Machine(client_id) => Ok(self.ask_machine(client_id.as_deref())),
        }
    }

    fn exchange(&self, app: &App, proof: &[(&str, &str)]) -> TokenRequest {
        let path = format!("{}/{}/oauth2/v2.0/token", self.endpoint.path, app.tenant);
        let mut pairs = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &app.client_id),
            ("scope", &self.scope),
        ];
        pairs.extend(proof);
        TokenRequest::form(&self.endpoint, path, &pairs)
    }

    fn ask_machine(&self, client_id: Option<&str>) -> TokenRequest {
        // The metadata service knows audiences, not scopes.
        let resource = self.scope.trim_end_matches("/.default");
        let mut pairs = vec![("api-version", "2018-02-01"), ("resource", resource)];
        pairs.extend(client_id.map(|id| ("client_id", id)));
        let path = format!(
            "{}/metadata/identity/oauth2/token?{}",
            self.endpoint.path,
            encode(&pairs)
        );
        let mut request = TokenRequest::get(&self.endpoint, path);
        request.set(HeaderName::from_static("metadata"), "true");
        request
    }

    pub(super) fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        let (host, path) = (self.endpoint.host_header(), &self.endpoint.path);
        parts.extend([b"azure", host.as_bytes(), path.as_bytes()]);
        parts.push(self.scope.as_bytes());
        match &self.proof {
            Proof::Secret(app, secret) => {
                parts.extend([b"secret", secret.expose().as_bytes()]);
                app.identify(parts);
            }
            Proof::Federated(app, assertion) => {
                parts.extend([b"federated", assertion.place().as_bytes()]);
                app.identify(parts);
            }
            Proof::Machine(client_id) => {
                parts.push(b"machine");
                parts.extend(client_id.as_ref().map(|id| id.as_bytes()));
            }
        }
    }

    pub(super) fn secret(&self) -> Option<&Secret> {
        match &self.proof {
            Proof::Secret(_, secret) => Some(secret),
            Proof::Federated(..) | Proof::Machine(_) => None,
        }
    }
}

impl App {
    /// The tenant is a part of the URL: an id or a domain name.
    fn try_new(tenant: &str, client_id: &str) -> Result<Self, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        let is_tenant = (1..=MAX_TENANT_BYTES).contains(&tenant.len())
            && tenant.bytes().all(plain)
            && !tenant.starts_with('.')
            && !tenant.contains("..");
        if !is_tenant {
            let message = "The Entra tenant must be an id or a domain name.";
            return Err(Error::new(Kind::Invalid, message));
        }
        if client_id.is_empty() {
            let message = "The Entra client id is missing.";
            return Err(Error::new(Kind::Invalid, message));
        }
        Ok(Self {
            tenant: tenant.to_owned(),
            client_id: client_id.to_owned(),
        })
    }

    fn identify<'s>(&'s self, parts: &mut Vec<&'s [u8]>) {
        parts.extend([self.tenant.as_bytes(), self.client_id.as_bytes()]);
    }
}

const AUTHORITY: &str = "https://login.microsoftonline.com";
/// Link-local, without TLS: it never leaves the machine.
const METADATA: &str = "http://169.254.169.254";
/// Azure OpenAI's.
const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// A domain name's limit is 253.
const MAX_TENANT_BYTES: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "00000000-0000-0000-0000-000000000001";

    fn secret(text: &str) -> Secret {
        Secret::try_new(text).unwrap()
    }

    fn body(request: &TokenRequest) -> &str {
        std::str::from_utf8(&request.body).unwrap()
    }

    #[test]
    fn an_app_sends_its_secret_as_a_form() {
        let identity = Identity::entra(TENANT, "app-1", secret("s&=é")).unwrap();
        let request = identity.request().unwrap();
        assert_eq!(request.path, format!("/{TENANT}/oauth2/v2.0/token"));
        assert_eq!(request.headers["host"], "login.microsoftonline.com");
        let form = "grant_type=client_credentials&client_id=app-1&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default&client_secret=s%26%3D%C3%A9";
        assert_eq!(body(&request), form);
        assert!(!format!("{identity:?} {request:?}").contains("s&"));
    }

    #[test]
    fn a_workload_s_token_is_read_for_every_exchange() {
        let count = std::sync::atomic::AtomicU32::new(0);
        let assertion = FreshSecret::new("file", move || {
            let turn = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            (turn < 2).then(|| secret(&format!("eyJ{turn}")))
        });
        let identity = Identity::workload("contoso.com", "app-1", assertion).unwrap();
        for turn in 0..2 {
            let request = identity.request().unwrap();
            let proof = format!(
                "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=eyJ{turn}"
            );
            assert!(body(&request).ends_with(&proof));
        }
        assert_eq!(identity.request().unwrap_err().kind(), Kind::Internal);
    }

    #[test]
    fn the_machine_is_asked_with_its_header() {
        let request = Identity::managed(Some("id-1")).unwrap().request().unwrap();
        assert_eq!(request.method, "GET");
        assert_eq!(request.headers["metadata"], "true");
        assert_eq!(
            request.path,
            "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fcognitiveservices.azure.com&client_id=id-1"
        );
        assert!(request.body.is_empty() && !request.headers.contains_key("content-length"));
    }

    #[test]
    fn a_tenant_cannot_leave_its_place_in_the_url() {
        for tenant in [
            "", "..", ".", "a/b", "a?b", "a#b", "a%2fb", "a..b", "é", "a b", "a\\b",
        ] {
            assert!(
                Identity::entra(tenant, "app", secret("s")).is_err(),
                "{tenant}"
            );
        }
        assert!(Identity::entra(TENANT, "", secret("s")).is_err());
    }
}
