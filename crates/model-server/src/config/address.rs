use std::net::{IpAddr, SocketAddr};

use clap::Args;

/// Where the server listens, and where its health check connects.
#[derive(Debug, Clone, Copy, Args)]
pub struct Address {
    /// Address to listen on; 0.0.0.0 in a container
    #[arg(long, env = "HOST", default_value = "127.0.0.1", value_name = "IP")]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one, which the log names
    #[arg(long, env = "PORT", default_value = "8081", value_name = "PORT")]
    pub port: u16,
}

impl From<Address> for SocketAddr {
    fn from(Address { host, port }: Address) -> Self {
        Self::new(host, port)
    }
}
