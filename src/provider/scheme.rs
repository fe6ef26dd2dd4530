//! Credentials of several parts: which parts there are, who may name them, and how they become one.

use std::sync::Arc;

use crate::{
    error::Error,
    provider::{
        Base, Credential, FreshSecret, Secret, aws, azure::Identity, google::ServiceAccount,
        oci::Signer,
    },
};

/// How a provider's credentials can be put together, beside a plain key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// There is nothing but a key.
    Key,
    /// Keys that sign for this AWS service, wherever they come from.
    Aws(&'static str),
    /// A Google service account.
    Google,
    /// A Microsoft Entra identity, or its token.
    Azure,
    /// An Oracle API key.
    Oci,
}

/// One part of a credential.
#[derive(Debug)]
pub struct Part {
    /// In an inline config and in a conf's `credentials`.
    pub name: &'static str,
    /// The request header that sets it; empty: only a conf may.
    pub header: &'static str,
}

/// Where a credential's parts come from: all of them from the client, or all from the conf.
pub struct Parts<'a> {
    pub named: &'a dyn Fn(&Part) -> Result<Option<Secret>, Error>,
    /// For those who may use the gateway's own identity.
    pub own: Option<Own<'a>>,
    pub region: &'a str,
}

/// Where the platform tells the gateway who it is.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    /// Of the environment.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    pub file: &'a dyn Fn(&str) -> FreshSecret,
}

impl Scheme {
    pub fn parts(self) -> &'static [Part] {
        match self {
            Self::Key => &[],
            Self::Aws(_) => aws::PARTS,
            Self::Google => GOOGLE,
            Self::Azure => AZURE,
            Self::Oci => OCI,
        }
    }

    /// The credential that `parts` make; `None`: they name nothing of one.
    pub fn read(self, parts: &Parts<'_>) -> Result<Option<Credential>, Error> {
        match self {
            Self::Key => Ok(None),
            Self::Aws(service) => aws::read(service, parts),
            Self::Google => read_google(parts),
            Self::Azure => read_azure(parts),
            Self::Oci => read_oci(parts),
        }
    }

    /// How tables call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Key => "",
            Self::Aws(_) => "SigV4, roles, AWS identity",
            Self::Google => "service account",
            Self::Azure => "Entra, managed or workload identity",
            Self::Oci => "OCI signature",
        }
    }
}

impl Parts<'_> {
    pub(super) fn get(&self, name: &str, of: &'static [Part]) -> Result<Option<Secret>, Error> {
        let part = of.iter().find(|part| part.name == name);
        part.map_or(Ok(None), self.named)
    }

    pub(super) fn need(&self, name: &'static str, of: &'static [Part]) -> Result<Secret, Error> {
        self.get(name, of)?.ok_or_else(|| {
            let header = of.iter().find(|part| part.name == name);
            let header = header.map_or("", |part| part.header);
            let told = if header.is_empty() { name } else { header };
            Error::invalid(told, format!("`{told}` is required for this credential."))
        })
    }

    /// Another address of a vendor's service.
    pub(super) fn base(
        &self,
        name: &'static str,
        of: &'static [Part],
    ) -> Result<Option<Base>, Error> {
        let url = self.get(name, of)?;
        url.map(|url| Base::try_new(url.expose(), name)).transpose()
    }
}

fn read_google(parts: &Parts<'_>) -> Result<Option<Credential>, Error> {
    let Some(json) = parts.get("vertex_service_account_json", GOOGLE)? else {
        return Ok(None);
    };
    let account = ServiceAccount::read(json.expose())?;
    let account = match parts.base("vertex_token_endpoint", GOOGLE)? {
        Some(endpoint) => account.at(endpoint),
        None => account,
    };
    Ok(Some(Credential::Google(Arc::new(account))))
}

fn read_azure(parts: &Parts<'_>) -> Result<Option<Credential>, Error> {
    if let Some(token) = parts.get("azure_ad_token", AZURE)? {
        return Ok(Some(Credential::Bearer(token)));
    }
    let Some(mode) = parts.get("azure_auth_mode", AZURE)? else {
        return Ok(None);
    };
    let identity = match (mode.expose(), parts.own) {
        ("entra", _) => Identity::entra(
            parts.need("azure_entra_tenant_id", AZURE)?.expose(),
            parts.need("azure_entra_client_id", AZURE)?.expose(),
            parts.need("azure_entra_client_secret", AZURE)?,
        )?,
        ("managed", Some(_)) => {
            let client = parts.get("azure_managed_client_id", AZURE)?;
            Identity::managed(client.as_ref().map(Secret::expose))?
        }
        ("workload", Some(own)) => Identity::workload(
            parts.need("azure_entra_tenant_id", AZURE)?.expose(),
            parts.need("azure_workload_client_id", AZURE)?.expose(),
            workload(parts, own)?,
        )?,
        _ => {
            let message = "`azure_auth_mode` must be `entra`; in the gateway's own conf also `managed` or `workload`.";
            return Err(Error::invalid("x-portkey-azure-auth-mode", message));
        }
    };
    let identity = match parts.get("azure_entra_scope", AZURE)? {
        Some(scope) => identity.with_scope(scope.expose()),
        None => identity,
    };
    let identity = match parts.base("azure_token_endpoint", AZURE)? {
        Some(endpoint) => identity.at(endpoint),
        None => identity,
    };
    Ok(Some(Credential::Azure(Arc::new(identity))))
}

/// The file of a workload's federated token: the conf's, or the one that Kubernetes names.
fn workload(parts: &Parts<'_>, own: Own<'_>) -> Result<FreshSecret, Error> {
    let named = parts.get("azure_workload_token_file", AZURE)?;
    let file = named.map(|file| file.expose().to_owned());
    let file = file.or_else(|| (own.variable)("AZURE_FEDERATED_TOKEN_FILE"));
    Ok((own.file)(&file.unwrap_or_default()))
}

fn read_oci(parts: &Parts<'_>) -> Result<Option<Credential>, Error> {
    if parts.get("oracle_private_key", OCI)?.is_none() {
        return Ok(None);
    }
    // A header holds no line ends: a key in one has `\n` in two characters.
    let pem = parts.need("oracle_private_key", OCI)?;
    let pem = Secret::try_new(&pem.expose().replace("\\n", "\n"));
    let signer = Signer::try_new(
        parts.need("oracle_tenancy", OCI)?.expose(),
        parts.need("oracle_user", OCI)?.expose(),
        parts.need("oracle_fingerprint", OCI)?.expose(),
        &pem.ok_or_else(|| Error::invalid("x-portkey-oracle-private-key", "The key is empty."))?,
    )?;
    Ok(Some(Credential::Oci(Arc::new(signer))))
}

pub(super) const fn part(name: &'static str, header: &'static str) -> Part {
    Part { name, header }
}

const GOOGLE: &[Part] = &[
    part(
        "vertex_service_account_json",
        "x-portkey-vertex-service-account-json",
    ),
    part("vertex_token_endpoint", ""),
];

const AZURE: &[Part] = &[
    part("azure_ad_token", "x-portkey-azure-ad-token"),
    part("azure_auth_mode", "x-portkey-azure-auth-mode"),
    part("azure_entra_tenant_id", "x-portkey-azure-entra-tenant-id"),
    part("azure_entra_client_id", "x-portkey-azure-entra-client-id"),
    part(
        "azure_entra_client_secret",
        "x-portkey-azure-entra-client-secret",
    ),
    part("azure_entra_scope", "x-portkey-azure-entra-scope"),
    part("azure_managed_client_id", ""),
    part("azure_workload_client_id", ""),
    part("azure_workload_token_file", ""),
    part("azure_token_endpoint", ""),
];

const OCI: &[Part] = &[
    part("oracle_tenancy", "x-portkey-oracle-tenancy"),
    part("oracle_user", "x-portkey-oracle-user"),
    part("oracle_fingerprint", "x-portkey-oracle-fingerprint"),
    part("oracle_private_key", "x-portkey-oracle-private-key"),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        scheme: Scheme,
        values: &[(&str, &str)],
        own: Option<Own<'_>>,
    ) -> Result<Option<Credential>, Error> {
        let named = |part: &Part| {
            let found = values.iter().find(|(name, _)| *name == part.name);
            Ok(found.and_then(|(_, value)| Secret::try_new(value)))
        };
        scheme.read(&Parts {
            named: &named,
            own,
            region: "eu-west-1",
        })
    }

    const AWS_KEYS: [(&str, &str); 2] = [
        ("aws_access_key_id", "AKID"),
        ("aws_secret_access_key", "sk-aws"),
    ];

    #[test]
    fn parts_make_a_credential_and_nothing_makes_none() {
        for scheme in [
            Scheme::Key,
            Scheme::Aws("bedrock"),
            Scheme::Google,
            Scheme::Azure,
            Scheme::Oci,
        ] {
            assert!(read(scheme, &[], None).unwrap().is_none(), "{scheme:?}");
        }
        let held = read(Scheme::Aws("bedrock"), &AWS_KEYS, None)
            .unwrap()
            .unwrap();
        let Credential::Aws(aws) = &held else {
            panic!("{held:?}")
        };
        assert_eq!(aws.scope.region(), "eu-west-1");
        assert!(held.grant().is_none() && held.signs());
        let role = ("aws_role_arn", "arn:aws:iam::123456789012:role/demo");
        let assumed = read(
            Scheme::Aws("bedrock"),
            &[AWS_KEYS[0], AWS_KEYS[1], role],
            None,
        );
        assert!(assumed.unwrap().unwrap().grant().is_some());
        let token = read(Scheme::Azure, &[("azure_ad_token", "t")], None).unwrap();
        assert!(matches!(token, Some(Credential::Bearer(_))));
    }

    #[test]
    fn half_a_credential_names_the_other_half() {
        for (scheme, values, missing) in [
            (
                Scheme::Aws("bedrock"),
                vec![AWS_KEYS[0]],
                "x-portkey-aws-secret-access-key",
            ),
            (
                Scheme::Aws("bedrock"),
                vec![AWS_KEYS[1]],
                "x-portkey-aws-access-key-id",
            ),
            (
                Scheme::Azure,
                vec![("azure_auth_mode", "entra")],
                "x-portkey-azure-entra-tenant-id",
            ),
            (
                Scheme::Oci,
                vec![("oracle_private_key", "x")],
                "x-portkey-oracle-tenancy",
            ),
        ] {
            let error = read(scheme, &values, None).unwrap_err();
            assert_eq!(
                (error.status().as_u16(), error.param()),
                (400, Some(missing))
            );
        }
    }

    #[test]
    fn the_gateways_own_identity_is_the_confs_alone() {
        let own = Own {
            variable: &|_| None,
            file: &|file| FreshSecret::new(file, || None),
        };
        for mode in ["managed", "workload", "other"] {
            let values = [
                ("azure_auth_mode", mode),
                (
                    "azure_entra_tenant_id",
                    "00000000-0000-0000-0000-000000000000",
                ),
                (
                    "azure_workload_client_id",
                    "11111111-1111-1111-1111-111111111111",
                ),
            ];
            assert_eq!(
                read(Scheme::Azure, &values, None).unwrap_err().param(),
                Some("x-portkey-azure-auth-mode")
            );
            let by_conf = read(Scheme::Azure, &values, Some(own));
            assert_eq!(by_conf.is_ok(), mode != "other", "{mode}");
        }
    }
}
