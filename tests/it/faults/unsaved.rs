//! Redis takes no writes because its last snapshot failed.

use std::fs;
use std::path::PathBuf;

use super::{client, durable, say, selling};
use crate::support::door::{Buy, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_sells_nothing_until_it_can() {
    let (servers, gateway) = selling(10).await;
    // Redis refuses even the greeting of a new client then.
    let redis = client(&servers.redis.url()).await;
    let before = durable(&gateway, "before").await;
    let dir: Vec<String> = say(&redis, "CONFIG", vec!["GET".into(), "dir".into()])
        .await
        .convert()
        .expect("a setting");
    // Nothing can be renamed to where a folder is.
    let in_the_way = PathBuf::from(dir.last().expect("a folder")).join("dump.rdb");
    fs::create_dir(&in_the_way).expect("nothing is there yet");
    say(&redis, "CONFIG", vec!["SET".into(), "save".into(), "3600 1".into()]).await;
    let save = async |wanted: &str| {
        let saved = format!("rdb_last_bgsave_status:{wanted}");
        say(&redis, "BGSAVE", Vec::new()).await;
        until("the snapshot is over", async || {
            let told = say(&redis, "INFO", vec!["persistence".into()]).await;
            told.into_string().filter(|info| info.contains(&saved))
        })
        .await;
    };
    save("err").await;

    let buy = Buy::of("meanwhile").key("meanwhile");
    let refused = gateway.reserve(&buy).await;
    assert_eq!(refused.problem(), (503, "STOCK_UNAVAILABLE"));
    let id = gateway.reserve(&Buy::of("before").key("before")).await;
    assert!(id.status == 503 || id.replayed, "{}", id.body);
    gateway.commit(&before).await.expect(200);

    fs::remove_dir(&in_the_way).expect("it is still there");
    save("ok").await;
    let sold = gateway.insist(&buy).await;
    assert_eq!(
        (sold.status, sold.replayed),
        (201, false),
        "nothing was taken: {}",
        sold.body
    );
    gateway.settled().await;
    gateway.stop().await;
}
