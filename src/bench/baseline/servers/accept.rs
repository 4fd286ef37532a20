//! What an upgrade costs if it is nothing else: accept, handshake, one request, its answer.

use futures_util::StreamExt as _;

use super::tungstenite::{nonblocking, subscribe};

pub(super) async fn serve() -> anyhow::Result<()> {
    let listener = nonblocking()?;
    loop {
        let socket = listener.accept().await?.0;
        tokio::spawn(async move {
            let mut client = subscribe(socket, || ()).await?.0;
            while let Some(message) = client.next().await {
                message?;
            }
            anyhow::Ok(())
        });
    }
}
