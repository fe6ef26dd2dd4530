//! One connection of the load: TCP, with TLS where the URL says so.

use std::{io, net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::measure::endpoint::Endpoint;

/// Where connections of a target go. Its name is looked up once: the resolver is not what is measured.
pub struct Server {
    addresses: Vec<SocketAddr>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Server {
    /// `authorities` are PEM certificates to trust in place of the system's.
    pub async fn find(endpoint: &Endpoint, authorities: Option<&str>) -> Result<Self, String> {
        let host = (endpoint.host.as_str(), endpoint.port);
        let addresses: Vec<SocketAddr> = lookup_host(host)
            .await
            .map_err(|error| format!("{}: {error}", endpoint.host))?
            .collect();
        let tls = match endpoint.is_tls {
            true => Some(tls(&endpoint.host, authorities)?),
            false => None,
        };
        Ok(Self { addresses, tls })
    }
}

fn tls(
    host: &str,
    authorities: Option<&str>,
) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(text) => {
            for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
                let added = certificate.map(|certificate| roots.add(certificate));
                if !matches!(added, Ok(Ok(()))) {
                    return Err("--ca: expected are certificates in PEM".to_owned());
                }
            }
        }
        None => {
            let system = rustls_native_certs::load_native_certs()
                .map_err(|error| format!("the system's certificates: {error}"))?;
            roots.add_parsable_certificates(system);
        }
    }
    if roots.is_empty() {
        return Err("no certificate to trust: --ca FILE names some".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host}: no host name"))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// Dropping it closes it.
pub struct Connection {
    stream: Stream,
    /// What has come and was not read.
    pub input: BytesMut,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub async fn open(server: &Server) -> io::Result<Self> {
        let tcp = TcpStream::connect(server.addresses.as_slice()).await?;
        tcp.set_nodelay(true)?;
        let stream = match &server.tls {
            None => Stream::Plain(tcp),
            Some((connector, name)) => {
                Stream::Tls(Box::new(connector.connect(name.clone(), tcp).await?))
            }
        };
        Ok(Self {
            stream,
            input: BytesMut::new(),
        })
    }

    /// Whether it waits for a request: the server has neither closed it nor sent anything unasked.
    pub fn is_idle(&self) -> bool {
        match &self.stream {
            Stream::Plain(tcp) => {
                let read = tcp.try_read(&mut [0]);
                read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            }
            // What comes unasked may be a session ticket.
            Stream::Tls(_) => true,
        }
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.write_all(bytes).await,
            Stream::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
        }
    }

    /// One read into `input`; 0: the server has closed.
    pub async fn read(&mut self) -> io::Result<usize> {
        self.input.reserve(READ_BYTES);
        match &mut self.stream {
            Stream::Plain(tcp) => tcp.read_buf(&mut self.input).await,
            Stream::Tls(tls) => tls.read_buf(&mut self.input).await,
        }
    }
}

const READ_BYTES: usize = 16 << 10;
