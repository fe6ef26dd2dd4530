//! The certificates of a listener: read from files, chosen by the name that a client asks for, and renewed while the
//! listener serves. TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN (RFC 7301). No certificate is asked of clients.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    client::verify_server_name,
    crypto::ring,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

/// What a TLS listener needs for a handshake.
pub struct Tls {
    pub server: Arc<ServerConfig>,
    pub certificates: Arc<Certificates>,
}

impl Tls {
    pub fn try_new(pairs: Vec<Pair>) -> Result<Self, String> {
        let certificates = Arc::new(Certificates { pairs });
        let provider = Arc::new(ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_cert_resolver(certificates.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            server: Arc::new(server),
            certificates,
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.certificates.pairs.iter().map(|pair| &pair.cert.name);
        f.debug_list().entries(names).finish()
    }
}

/// Certificates, the first of which is for clients that name no host, or none of theirs.
pub struct Certificates {
    pairs: Vec<Pair>,
}

impl Certificates {
    /// Looks at the files again. Connections that are open keep what they have.
    pub fn renew(&self) -> Vec<Renewal<'_>> {
        self.pairs.iter().filter_map(Pair::renew).collect()
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let is_for = |pair: &&Pair| name.as_ref().is_some_and(|name| pair.is_for(name));
        let named = self
            .pairs
            .iter()
            .filter(|_| self.pairs.len() > 1)
            .find(is_for);
        named.or(self.pairs.first()).map(Pair::key)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

/// What a look at the files of one certificate found.
#[derive(Debug, PartialEq, Eq)]
pub enum Renewal<'a> {
    /// The certificate in this file is in use from now on.
    Renewed(&'a str),
    /// The one in this file is not: why. The one before it stays in use.
    Refused(&'a str, String),
}

/// A file in PEM, and how it is read.
pub struct PemFile {
    pub name: String,
    pub read: Box<dyn Fn() -> Option<String> + Send + Sync>,
}

impl PemFile {
    fn text(&self) -> Result<String, String> {
        (self.read)().ok_or_else(|| format!("`{}` cannot be read", self.name))
    }
}

/// A certificate's chain, its key, and the files they come from.
pub struct Pair {
    cert: PemFile,
    key: PemFile,
    held: RwLock<Held>,
}

struct Held {
    key: Arc<CertifiedKey>,
    /// Of the files as they were when last looked at, so that one mistake is told once.
    seen: u64,
}

impl Pair {
    pub fn try_new(cert: PemFile, key: PemFile) -> Result<Self, String> {
        let (texts, seen) = look(&cert, &key);
        let held = RwLock::new(Held {
            key: Arc::new(read_pair(&cert.name, &key.name, texts)?),
            seen,
        });
        Ok(Self { cert, key, held })
    }

    fn renew(&self) -> Option<Renewal<'_>> {
        let (texts, seen) = look(&self.cert, &self.key);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.seen == seen {
            return None;
        }
        held.seen = seen;
        Some(match read_pair(&self.cert.name, &self.key.name, texts) {
            Ok(key) => {
                held.key = Arc::new(key);
                Renewal::Renewed(&self.cert.name)
            }
            Err(why) => Renewal::Refused(&self.cert.name, why),
        })
    }

    fn key(&self) -> Arc<CertifiedKey> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.key.clone()
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        let key = self.key();
        let own = key.cert.first().map(ParsedCertificate::try_from);
        own.is_some_and(|own| own.is_ok_and(|own| verify_server_name(&own, name).is_ok()))
    }
}

/// The texts of a certificate and its key.
type Texts = Result<(String, String), String>;

/// What stands in the files, and a mark that changes with it.
fn look(cert: &PemFile, key: &PemFile) -> (Texts, u64) {
    let texts = cert.text().and_then(|cert| Ok((cert, key.text()?)));
    let mut hasher = DefaultHasher::new();
    texts.hash(&mut hasher);
    (texts, hasher.finish())
}

/// Errors name the file at fault, and quote nothing of it.
fn read_pair(cert_file: &str, key_file: &str, texts: Texts) -> Result<CertifiedKey, String> {
    let (cert, key) = texts?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert.as_bytes()).collect();
    let chain = chain.map_err(|_| format!("`{cert_file}` is not in PEM"))?;
    if chain.is_empty() {
        return Err(format!("`{cert_file}` holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| format!("`{key_file}` holds no private key in PEM"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|_| format!("`{cert_file}` and `{key_file}` are no certificate and its key"))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const ONE: [&str; 2] = [
        include_str!("../tests/fixtures/tls/one.pem"),
        include_str!("../tests/fixtures/tls/one.key"),
    ];
    const TWO: [&str; 2] = [
        include_str!("../tests/fixtures/tls/two.pem"),
        include_str!("../tests/fixtures/tls/two.key"),
    ];

    /// Two files that a test writes.
    type Files = Arc<Mutex<[Option<String>; 2]>>;

    fn files(texts: [&str; 2]) -> Files {
        Arc::new(Mutex::new(texts.map(|text| Some(text.to_owned()))))
    }

    fn pair(files: &Files) -> Result<Pair, String> {
        let file = |place: usize| {
            let files = files.clone();
            PemFile {
                name: ["cert", "key"][place].to_owned(),
                read: Box::new(move || files.lock().unwrap()[place].clone()),
            }
        };
        Pair::try_new(file(0), file(1))
    }

    fn chosen(certificates: &Certificates, name: Option<&str>) -> usize {
        let chosen = certificates.choose(name).unwrap();
        let texts = [ONE, TWO];
        let der = texts.map(|[cert, _]| CertificateDer::from_pem_slice(cert.as_bytes()).unwrap());
        der.iter().position(|der| chosen.cert[0] == *der).unwrap()
    }

    #[test]
    fn the_certificate_is_the_one_for_the_name() {
        let pairs = [ONE, TWO].map(|texts| pair(&files(texts)).unwrap());
        let certificates = Certificates {
            pairs: pairs.into(),
        };
        for (name, place) in [
            (Some("one.test"), 0),
            (Some("two.test"), 1),
            (Some("a.two.test"), 1),
            (Some("a.b.two.test"), 0),
            (Some("x.test"), 0),
            (Some("not a name"), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&certificates, name), place, "{name:?}");
        }
    }

    #[test]
    fn a_new_file_is_used_and_a_broken_one_is_not() {
        let files = files(ONE);
        let certificates = Certificates {
            pairs: vec![pair(&files).unwrap()],
        };
        let put = |place: usize, text: Option<&str>| {
            files.lock().unwrap()[place] = text.map(str::to_owned);
        };
        assert_eq!(certificates.renew(), []);
        for (place, text, why) in [
            (0, Some("nonsense"), "`cert` holds no certificate"),
            (
                0,
                Some("-----BEGIN CERTIFICATE-----\nAAAA"),
                "`cert` is not in PEM",
            ),
            (0, None, "`cert` cannot be read"),
            (
                0,
                Some(TWO[0]),
                "`cert` and `key` are no certificate and its key",
            ),
            (1, Some(""), "`key` holds no private key in PEM"),
        ] {
            put(place, text);
            let told = [Renewal::Refused("cert", why.to_owned())];
            assert_eq!(certificates.renew(), told);
            assert_eq!(certificates.renew(), [], "told once");
            assert_eq!(chosen(&certificates, None), 0);
        }
        put(1, Some(TWO[1]));
        assert_eq!(certificates.renew(), [Renewal::Renewed("cert")]);
        assert_eq!(chosen(&certificates, None), 1);
    }

    #[test]
    fn a_listener_does_not_start_with_a_broken_pair() {
        assert!(pair(&files([ONE[0], TWO[1]])).is_err());
        assert!(pair(&files(["", ""])).is_err());
    }
}
