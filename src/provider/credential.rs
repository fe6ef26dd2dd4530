//! As whom a call goes upstream: a key that is sent, keys that sign, or a grant that is exchanged for a token first.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use crate::{
    error::{Error, Kind},
    provider::{
        Auth, Secret, azure, google,
        grant::{Grant, Token},
        oci,
        pool::KeyPool,
        sigv4::{Credentials, Scope, Unsigned},
    },
};

#[derive(Clone, Debug)]
pub enum Credential {
    /// Sent as the provider wants it.
    Key(Secret),
    /// Several keys, of which each call takes one.
    Pool(Arc<KeyPool>),
    /// Sent as a bearer token, whatever the provider's keys look like.
    Bearer(Secret),
    Aws(Arc<Aws>),
    Google(Arc<google::ServiceAccount>),
    Azure(Arc<azure::Identity>),
    Oci(Arc<oci::Signer>),
}

/// Keys that sign for one region and service.
#[derive(Clone, Debug)]
pub struct Aws {
    pub scope: Scope,
    pub keys: AwsKeys,
}

#[derive(Clone, Debug)]
pub enum AwsKeys {
    Held(Credentials),
    /// Temporary ones that have to be fetched.
    Granted(Grant),
}

/// One header of a request.
pub type Header = (HeaderName, HeaderValue);

impl Credential {
    /// The same, for calls to `region`, if it signs for one.
    pub fn in_region(self, region: &str) -> Result<Self, Error> {
        match self {
            Self::Aws(aws) if aws.scope.region() != region => {
                let mut aws = Aws::clone(&aws);
                aws.scope = Scope::try_new(region, aws.scope.service())?;
                Ok(Self::Aws(Arc::new(aws)))
            }
            other => Ok(other),
        }
    }

    /// What has to be exchanged for a token before a call.
    pub fn grant(&self) -> Option<Grant> {
        match self {
            Self::Google(account) => Some(Grant::Google(account.clone())),
            Self::Azure(identity) => Some(Grant::Azure(identity.clone())),
            Self::Aws(aws) => match &aws.keys {
                AwsKeys::Granted(grant) => Some(grant.clone()),
                AwsKeys::Held(_) => None,
            },
            Self::Key(_) | Self::Pool(_) | Self::Bearer(_) | Self::Oci(_) => None,
        }
    }

    /// Whether a call is signed: its body has to be known before its head is sent.
    pub fn signs(&self) -> bool {
        match self {
            Self::Aws(_) | Self::Oci(_) => true,
            Self::Key(_) | Self::Pool(_) | Self::Bearer(_) | Self::Google(_) | Self::Azure(_) => {
                false
            }
        }
    }

    /// The header that carries the credential itself; a signature is [`Credential::sign`]'s. A token is always a bearer,
    /// where the provider's keys may have a header of their own.
    pub fn header(&self, auth: &Auth, token: Option<&Token>) -> Result<Option<Header>, Error> {
        match (self, token) {
            (Self::Key(key), _) => auth.header(Some(key)),
            (Self::Bearer(token), _) => Auth::Bearer.header(Some(token)),
            (Self::Google(_) | Self::Azure(_), Some(Token::Bearer(token))) => {
                Auth::Bearer.header(Some(token))
            }
            (Self::Google(_) | Self::Azure(_) | Self::Pool(_), _) => Err(unsettled()),
            (Self::Aws(_) | Self::Oci(_), _) => Ok(None),
        }
    }

    /// The headers that sign `request` at `now`, Unix seconds; none for a credential that does not sign.
    pub fn sign(
        &self,
        token: Option<&Token>,
        request: Unsigned<'_>,
        now: u64,
    ) -> Result<Vec<Header>, Error> {
        match self {
            Self::Aws(aws) => match (&aws.keys, token) {
                (AwsKeys::Held(keys), _) | (AwsKeys::Granted(_), Some(Token::Aws(keys))) => {
                    aws.scope.sign(keys, request, now)
                }
                (AwsKeys::Granted(_), _) => Err(unsettled()),
            },
            Self::Oci(signer) => signer.sign(request, now),
            Self::Key(_) | Self::Pool(_) | Self::Bearer(_) | Self::Google(_) | Self::Azure(_) => {
                Ok(Vec::new())
            }
        }
    }

    /// All that must not be told of what goes to the provider.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let held = match self {
            Self::Key(key) | Self::Bearer(key) => [Some(key), None, None],
            Self::Aws(aws) => match &aws.keys {
                AwsKeys::Held(keys) => three(keys.secrets()),
                AwsKeys::Granted(grant) => grant.secrets(),
            },
            // Of these, only a token ever goes to the provider, or the key that is taken.
            Self::Google(_) | Self::Azure(_) | Self::Oci(_) | Self::Pool(_) => [None; 3],
        };
        held.into_iter().flatten()
    }
}

/// An identity of AWS has three parts at most.
pub(super) fn three<'a>(mut secrets: impl Iterator<Item = &'a Secret>) -> [Option<&'a Secret>; 3] {
    [secrets.next(), secrets.next(), secrets.next()]
}

/// A carrier that forgot to settle: the call is not made without its credential.
fn unsettled() -> Error {
    let message = "The credential was not exchanged for a token or a key.";
    Error::new(Kind::Internal, message)
}
