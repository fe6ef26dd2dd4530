//! AWS credentials of several parts: where keys come from, and the roles that are assumed with them.
//!
//! | `aws_auth_mode` | keys |
//! |---|---|
//! | none | the parts `aws_access_key_id` and `aws_secret_access_key` |
//! | `web-identity` | a role's, for a federated token (IRSA of EKS, GitHub and others) |
//! | `container` | of the container's agent: ECS, EKS Pod Identity |
//! | `instance` | of EC2's instance profile |
//!
//! The last three are the gateway's own identity: only a conf may choose them. Their variables are those that AWS's own SDKs
//! read: <https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html>.

use std::sync::Arc;

use crate::{
    error::Error,
    provider::{
        Credential, FreshSecret, Secret,
        aws_metadata::Metadata,
        credential::{Aws, AwsKeys},
        grant::Grant,
        scheme::{Own, Part, Parts, part},
        sigv4::{Credentials, Scope},
        sts::{AssumeRole, Proof},
    },
};

/// The credential for `service` that `parts` make; `None`: they name nothing of one.
pub(super) fn read(service: &'static str, parts: &Parts<'_>) -> Result<Option<Credential>, Error> {
    let mode = parts.get("aws_auth_mode", PARTS)?;
    let mode = mode.as_ref().map(Secret::expose);
    let keys = match (mode, parts.own) {
        (None, _) => match held(parts)? {
            Some(keys) => first_role(AwsKeys::Held(keys), parts)?,
            None => return Ok(None),
        },
        (Some(_), _) if names_keys(parts)? => {
            return Err(wrong_mode("it and `aws_access_key_id` exclude each other"));
        }
        (Some("web-identity"), Some(own)) => web_identity(parts, own)?,
        (Some("container"), Some(own)) => {
            first_role(AwsKeys::Granted(container(parts, own)?), parts)?
        }
        (Some("instance"), Some(own)) => {
            first_role(AwsKeys::Granted(instance(parts, own)?), parts)?
        }
        _ => {
            return Err(wrong_mode(
                "it must be `web-identity`, `container` or `instance`",
            ));
        }
    };
    let keys = assumed(
        keys,
        ["aws_chained_role_arn", "aws_chained_external_id"],
        parts,
    )?;
    let scope = Scope::try_new(parts.region, service)?;
    Ok(Some(Credential::Aws(Arc::new(Aws { scope, keys }))))
}

fn names_keys(parts: &Parts<'_>) -> Result<bool, Error> {
    let id = parts.get("aws_access_key_id", PARTS)?;
    Ok(id.is_some() || parts.get("aws_secret_access_key", PARTS)?.is_some())
}

fn held(parts: &Parts<'_>) -> Result<Option<Credentials>, Error> {
    if !names_keys(parts)? {
        return Ok(None);
    }
    Ok(Some(Credentials {
        access_key: parts.need("aws_access_key_id", PARTS)?,
        secret_key: parts.need("aws_secret_access_key", PARTS)?,
        session_token: parts.get("aws_session_token", PARTS)?,
    }))
}

fn first_role(keys: AwsKeys, parts: &Parts<'_>) -> Result<AwsKeys, Error> {
    assumed(keys, ["aws_role_arn", "aws_external_id"], parts)
}

/// The keys of the role that `parts` name for `keys`; without one, `keys` themselves.
fn assumed(
    keys: AwsKeys,
    [role, external]: [&'static str; 2],
    parts: &Parts<'_>,
) -> Result<AwsKeys, Error> {
    let Some(role) = parts.get(role, PARTS)? else {
        return Ok(keys);
    };
    let proof = match keys {
        AwsKeys::Held(keys) => Proof::Keys(keys),
        AwsKeys::Granted(grant) => Proof::Granted(grant),
    };
    let external = parts.get(external, PARTS)?;
    let role = taken(proof, role.expose(), parts)?;
    let role = role.with_external_id(external.as_ref().map(Secret::expose));
    Ok(AwsKeys::Granted(Grant::AssumeRole(Arc::new(role))))
}

fn taken(proof: Proof, role_arn: &str, parts: &Parts<'_>) -> Result<AssumeRole, Error> {
    let role = AssumeRole::try_new(proof, role_arn, parts.region)?;
    let (name, variable) = ("aws_role_session_name", "AWS_ROLE_SESSION_NAME");
    let named = parts.own.map(|own| either(parts, name, own, variable));
    let role = match named.transpose()?.flatten() {
        Some(name) => role.with_session_name(&name)?,
        None => role,
    };
    Ok(match parts.base("aws_sts_endpoint", PARTS)? {
        Some(endpoint) => role.at(endpoint),
        None => role,
    })
}

/// <https://docs.aws.amazon.com/eks/latest/userguide/iam-roles-for-service-accounts.html>: EKS names both in the
/// environment.
fn web_identity(parts: &Parts<'_>, own: Own<'_>) -> Result<AwsKeys, Error> {
    if parts.get("aws_external_id", PARTS)?.is_some() {
        let message = "A role that is taken with a web identity has no external id.";
        return Err(Error::invalid("aws_external_id", message));
    }
    let role = either(parts, "aws_role_arn", own, "AWS_ROLE_ARN")?;
    let role = role.ok_or_else(|| missing("aws_role_arn"))?;
    let file = "aws_web_identity_token_file";
    let named = either(parts, file, own, "AWS_WEB_IDENTITY_TOKEN_FILE")?;
    let token = (own.file)(&named.ok_or_else(|| missing(file))?);
    let role = taken(Proof::Federated(token), &role, parts)?;
    Ok(AwsKeys::Granted(Grant::AssumeRole(Arc::new(role))))
}

fn container(parts: &Parts<'_>, own: Own<'_>) -> Result<Grant, Error> {
    let name = "aws_container_credentials_uri";
    let named = either(parts, name, own, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")?;
    let named = named.or_else(|| (own.variable)("AWS_CONTAINER_CREDENTIALS_FULL_URI"));
    let uri = named.ok_or_else(|| missing(name))?;
    let metadata = Metadata::container(&uri, container_token(parts, own)?)?;
    Ok(Grant::Metadata(Arc::new(metadata)))
}

/// A file counts before a fixed token, and what the conf names before what the environment does.
fn container_token(parts: &Parts<'_>, own: Own<'_>) -> Result<Option<FreshSecret>, Error> {
    if let Some(file) = parts.get("aws_container_authorization_token_file", PARTS)? {
        return Ok(Some((own.file)(file.expose())));
    }
    if let Some(token) = parts.get("aws_container_authorization_token", PARTS)? {
        return Ok(Some(FreshSecret::fixed(token)));
    }
    if let Some(file) = (own.variable)("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        return Ok(Some((own.file)(&file)));
    }
    let token = (own.variable)("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    Ok(token
        .and_then(|token| Secret::try_new(&token))
        .map(FreshSecret::fixed))
}

fn instance(parts: &Parts<'_>, own: Own<'_>) -> Result<Grant, Error> {
    let variable = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let endpoint = either(parts, "aws_metadata_endpoint", own, variable)?;
    let metadata = Metadata::instance(endpoint.as_deref())?;
    Ok(Grant::Metadata(Arc::new(metadata)))
}

/// The conf's word, or the environment's.
fn either(
    parts: &Parts<'_>,
    name: &str,
    own: Own<'_>,
    variable: &str,
) -> Result<Option<String>, Error> {
    let named = parts.get(name, PARTS)?;
    let named = named.map(|value| value.expose().to_owned());
    Ok(named.or_else(|| (own.variable)(variable).filter(|value| !value.is_empty())))
}

fn missing(name: &'static str) -> Error {
    let message = format!("`{name}` is required, and the environment does not say it either.");
    Error::invalid(name, message)
}

fn wrong_mode(why: &str) -> Error {
    let message = format!("`aws_auth_mode` cannot be used: {why}.");
    Error::invalid("aws_auth_mode", message)
}

pub(super) const PARTS: &[Part] = &[
    part("aws_access_key_id", "x-portkey-aws-access-key-id"),
    part("aws_secret_access_key", "x-portkey-aws-secret-access-key"),
    part("aws_session_token", "x-portkey-aws-session-token"),
    part("aws_role_arn", "x-portkey-aws-role-arn"),
    part("aws_external_id", "x-portkey-aws-external-id"),
    part("aws_auth_mode", ""),
    part("aws_web_identity_token_file", ""),
    part("aws_container_credentials_uri", ""),
    part("aws_container_authorization_token", ""),
    part("aws_container_authorization_token_file", ""),
    part("aws_metadata_endpoint", ""),
    part("aws_sts_endpoint", ""),
    part("aws_role_session_name", ""),
    part("aws_chained_role_arn", ""),
    part("aws_chained_external_id", ""),
];

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use ring::hmac;

    use super::*;
    use crate::provider::{
        grant::{GrantId, Token},
        scheme::Scheme,
    };

    const KEYS: [(&str, &str); 2] = [
        ("aws_access_key_id", "AKID"),
        ("aws_secret_access_key", "s"),
    ];
    const ROLE: (&str, &str) = ("aws_role_arn", "arn:aws:iam::1:role/first");
    const CHAINED: (&str, &str) = ("aws_chained_role_arn", "arn:aws:iam::1:role/second");

    fn try_read(
        values: &[(&'static str, &str)],
        variables: &[(&'static str, &str)],
    ) -> Result<Option<Credential>, Error> {
        let values: BTreeMap<_, _> = values.iter().copied().collect();
        let variables: BTreeMap<_, _> = variables.iter().copied().collect();
        Scheme::Aws("bedrock").read(&Parts {
            named: &|part| {
                Ok(values
                    .get(part.name)
                    .and_then(|value| Secret::try_new(value)))
            },
            own: Some(Own {
                variable: &|name| variables.get(name).map(|value| (*value).to_owned()),
                file: &|file| FreshSecret::new(file, || Secret::try_new("eyJ")),
            }),
            region: "eu-west-1",
        })
    }

    fn grant(values: &[(&'static str, &str)], variables: &[(&'static str, &str)]) -> Grant {
        let read = try_read(values, variables).unwrap();
        read.unwrap().grant().unwrap()
    }

    fn body(grant: &Grant, source: Option<&Token>) -> String {
        let request = grant.request(1_766_592_000, source).unwrap();
        let signed = request.headers.contains_key("authorization");
        assert_eq!(signed, source.is_some(), "{request:?}");
        String::from_utf8(request.body.to_vec()).unwrap()
    }

    #[test]
    fn a_web_identity_is_named_by_the_environment_or_the_conf() {
        let variables = [
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/irsa"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ];
        let mode = ("aws_auth_mode", "web-identity");
        let by_environment = grant(&[mode], &variables);
        let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Firsa&RoleSessionName=pingora-completions&WebIdentityToken=eyJ";
        assert_eq!(body(&by_environment, None), form);
        let by_conf = grant(
            &[mode, ROLE, ("aws_web_identity_token_file", "/t")],
            &variables,
        );
        assert!(body(&by_conf, None).contains("role%2Ffirst"));
        let under = |values: &[(&'static str, &str)], name: &'static str| {
            let variables = [variables[0], variables[1], ("AWS_ROLE_SESSION_NAME", name)];
            try_read(values, &variables).map(|read| read.unwrap().grant().unwrap())
        };
        let form = body(&under(&[mode], "by-me").unwrap(), None);
        assert!(form.contains("&RoleSessionName=by-me&"), "{form}");
        let named = under(&[mode, ("aws_role_session_name", "us@x")], "by-me").unwrap();
        assert!(body(&named, None).contains("&RoleSessionName=us%40x&"));
        for wrong in ["a", "a b", "é!"] {
            assert!(under(&[mode], wrong).is_err(), "{wrong}");
        }
        for (values, variables, missing) in [
            (&[mode][..], &variables[..1], "aws_web_identity_token_file"),
            (&[mode], &variables[1..], "aws_role_arn"),
            (
                &[mode, ("aws_external_id", "x")],
                &variables,
                "aws_external_id",
            ),
        ] {
            let error = try_read(values, variables).unwrap_err();
            assert_eq!(error.param(), Some(missing));
        }
    }

    #[test]
    fn a_container_s_variables_are_those_of_aws_s_own_tools() {
        let mode = ("aws_auth_mode", "container");
        let full = (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "http://127.0.0.1:9/full",
        );
        let relative = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/relative");
        let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "fixed");
        let file = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/t");
        let conf = ("aws_container_credentials_uri", "http://127.0.0.1:9/conf");
        for (values, variables, path, authorization) in [
            (&[mode][..], &[full][..], "/full", ""),
            (&[mode], &[full, relative], "/relative", ""),
            (&[mode], &[full, token], "/full", "fixed"),
            (&[mode], &[full, token, file], "/full", "eyJ"),
            (&[mode, conf], &[relative], "/conf", ""),
            (
                &[mode, conf, ("aws_container_authorization_token", "own")],
                &[file],
                "/conf",
                "own",
            ),
            (
                &[mode, conf, ("aws_container_authorization_token_file", "/o")],
                &[token],
                "/conf",
                "eyJ",
            ),
        ] {
            let request = grant(values, variables).request(1, None).unwrap();
            assert_eq!(request.path, path);
            let sent = request.headers.get("authorization");
            assert_eq!(
                sent.map_or("", |value| value.to_str().unwrap()),
                authorization
            );
        }
        let error = try_read(&[mode], &[]).unwrap_err();
        assert_eq!(error.param(), Some("aws_container_credentials_uri"));
    }

    #[test]
    fn roles_are_assumed_one_with_the_other() {
        let chained = [
            KEYS[0],
            KEYS[1],
            ROLE,
            CHAINED,
            ("aws_chained_external_id", "x"),
        ];
        let second = grant(&chained, &[]);
        let first = second.source().unwrap();
        assert!(first.source().is_none());
        let keys = Token::Aws(Credentials {
            access_key: Secret::try_new("ASIA").unwrap(),
            secret_key: Secret::try_new("s2").unwrap(),
            session_token: Secret::try_new("t2"),
        });
        let form = body(&second, Some(&keys));
        assert!(
            form.contains("role%2Fsecond") && form.ends_with("&ExternalId=x"),
            "{form}"
        );
        assert!(second.request(1, None).is_err());
        let request = first.request(1, None).unwrap();
        let signed = request.headers["authorization"].to_str().unwrap();
        assert!(signed.contains("Credential=AKID/"));
        // The keys at the chain's end are kept out of what is told.
        let told = second.redact(Error::broken("AKID"));
        assert_eq!(told.message(), "[redacted]");
        let instance = ("aws_auth_mode", "instance");
        assert!(matches!(grant(&[instance], &[]), Grant::Metadata(_)));
        let role = grant(&[instance, ROLE, CHAINED], &[]);
        let source = role.source().and_then(|first| first.source());
        assert!(matches!(source, Some(Grant::Metadata(_))));
    }

    #[test]
    fn every_source_of_keys_has_a_token_of_its_own() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        let instance = ("aws_auth_mode", "instance");
        let container = ("aws_auth_mode", "container");
        let web = ("aws_auth_mode", "web-identity");
        let uri = ("aws_container_credentials_uri", "/c");
        let all: &[&[(&'static str, &str)]] = &[
            &[KEYS[0], KEYS[1], ROLE],
            &[KEYS[0], KEYS[1], CHAINED],
            &[KEYS[0], KEYS[1], ROLE, CHAINED],
            &[instance],
            &[instance, ("aws_metadata_endpoint", "http://127.0.0.1:9")],
            &[instance, ROLE],
            &[instance, ROLE, ("aws_external_id", "x")],
            &[instance, ROLE, ("aws_role_session_name", "me")],
            &[instance, ROLE, ("aws_sts_endpoint", "http://127.0.0.1:9")],
            &[instance, ROLE, CHAINED],
            &[container, uri],
            &[container, ("aws_container_credentials_uri", "/d")],
            &[
                container,
                uri,
                ("aws_container_authorization_token_file", "/t"),
            ],
            &[container, uri, ("aws_container_authorization_token", "a")],
            &[container, uri, ("aws_container_authorization_token", "b")],
            &[container, uri, ROLE],
            &[web, ROLE, ("aws_web_identity_token_file", "/t")],
            &[web, ROLE, ("aws_web_identity_token_file", "/u")],
        ];
        let ids: HashSet<GrantId> = all
            .iter()
            .map(|values| grant(values, &[]).id(&key))
            .collect();
        assert_eq!(ids.len(), all.len());
    }

    #[test]
    fn modes_exclude_keys_and_other_words() {
        for values in [
            &[("aws_auth_mode", "instance"), KEYS[0]][..],
            &[("aws_auth_mode", "instance"), KEYS[1]],
            &[("aws_auth_mode", "imds")],
        ] {
            let error = try_read(values, &[]).unwrap_err();
            assert_eq!(error.param(), Some("aws_auth_mode"));
        }
    }
}
