//! Real Redis and Postgres for the tests.
//!
//! [`shared`] is one pair for the whole test program: each test takes its own database from both.
//! [`Private`] is a pair of one's own, for tests that kill servers. However the test program ends,
//! even by SIGKILL, a guard process that waits for the end of a pipe stops what is left and removes
//! all files.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use flashgate::dev::postgres::{self, Postgres};
use flashgate::dev::redis::{self, Redis};
use tokio_util::sync::CancellationToken;

/// How many numbered databases a shared Redis has: as many as its client can name.
const REDIS_DATABASES: u16 = 256;
/// How many Redis are shared; together they have as many databases as tests can have.
const REDIS_SERVERS: u16 = 4;

/// Run by the guard, with the root directory as `$1`: waits for the end of its input, then kills
/// every server whose pid file lies under the root (and whose command line names its directory, as
/// pids are reused), and removes the root with what Postgres moved out of it. It looks several
/// times, because a server may be starting at that very moment.
const GUARD: &str = r#"
trap '' INT TERM HUP
root=$1
cat >/dev/null
end() {
    read -r pid 2>/dev/null <"$1" || return
    case "$(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || ps -ww -o command= -p "$pid")" in
    *"$3"*) kill "-$2" "$pid" ;;
    esac
}
for signal in QUIT KILL KILL; do
    [ -n "$(ls -A "$root")" ] || break
    find "$root" -name redis.pid -o -name gateway.pid | while read -r file; do
        end "$file" KILL "$root"
    done
    find "$root" -name postgres | while read -r link; do
        place=$(readlink "$link" || echo "$link")
        end "$place/data/postmaster.pid" "$signal" "$place"
        [ "$signal" = QUIT ] || rm -rf "$place"
    done
    sleep 0.2
done
rm -rf "$root"
"#;

/// The directory of everything that this program's servers write; the guard watches over it.
struct Root {
    path: PathBuf,
    // Its input ends when this process does, and at no other time.
    _guard: Child,
}

/// A few Redis and one Postgres for all tests of this program.
pub(crate) struct Shared {
    redis: Vec<Redis>,
    postgres: Postgres,
    next_redis: AtomicU16,
    next_database: AtomicU32,
}

/// A Redis and a Postgres for one test, which may kill, restart and wipe them. Dropping it ends
/// both and removes their data.
pub(crate) struct Private {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    // After the servers: they end before their files go.
    _home: Home,
}

/// A directory under the root for one test.
pub(crate) struct Home(PathBuf);

/// The shared servers, started by the first test that asks.
pub(crate) async fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    blocking(|| SHARED.get_or_init(Shared::start)).await
}

/// A fresh directory that goes when dropped, reachable for every user, watched over by the guard.
pub(crate) fn home() -> Home {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = root().join(format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&path).expect("the root of the tests can be written");
    Home(path)
}

impl Home {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Where this fails, the guard removes it.
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Shared {
    fn start() -> Shared {
        // It stays until the program ends, and the guard removes it.
        let home = root().join("shared");
        let halt = CancellationToken::new();
        let redis = |number: u16| {
            let settings = redis::Settings {
                databases: REDIS_DATABASES,
                ..redis::Settings::new(root().join(format!("shared-{number}")))
            };
            Redis::start(settings, &halt).expect("a shared Redis starts")
        };
        let postgres = postgres::Settings {
            fsync: false,
            ..postgres::Settings::new(&home)
        };
        Shared {
            redis: (0..REDIS_SERVERS).map(redis).collect(),
            postgres: Postgres::start(postgres, &halt).expect("the shared Postgres starts"),
            next_redis: AtomicU16::new(0),
            next_database: AtomicU32::new(0),
        }
    }

    /// The URL of a new, empty Postgres database.
    pub(crate) async fn database(&'static self) -> String {
        self.postgres.url_of(&self.create().await)
    }

    /// The same over TCP.
    pub(crate) async fn tcp_database(&'static self) -> String {
        self.postgres.tcp_url_of(&self.create().await)
    }

    /// The name of a new, empty Postgres database.
    async fn create(&'static self) -> String {
        let name = format!("t{}", self.next_database.fetch_add(1, Ordering::Relaxed));
        blocking(move || {
            self.postgres.create_database(&name).expect("a database can be created");
            name
        })
        .await
    }

    /// The URL of an empty, numbered Redis database that no other test has. Scripts and channels are
    /// common to all of a server.
    pub(crate) fn redis(&self) -> String {
        let number = self.next_redis.fetch_add(1, Ordering::Relaxed);
        let server = self.redis.get(usize::from(number / REDIS_DATABASES));
        let server = server.expect("every test has a Redis database of its own");
        format!("{}/{}", server.url(), number % REDIS_DATABASES)
    }
}

impl Private {
    pub(crate) async fn start() -> Private {
        blocking(|| {
            let home = home();
            let halt = CancellationToken::new();
            Private {
                redis: Redis::start(redis::Settings::new(home.path()), &halt).expect("a Redis starts"),
                postgres: Postgres::start(postgres::Settings::new(home.path()), &halt).expect("a Postgres starts"),
                _home: home,
            }
        })
        .await
    }

    /// Starts Redis again after `redis.kill()` or `redis.wipe()`, on the same port.
    pub(crate) async fn restart_redis(&mut self) {
        let halt = CancellationToken::new();
        tokio::task::block_in_place(|| self.redis.restart(&halt)).expect("Redis comes back");
    }

    /// Starts Postgres again after `postgres.kill()`, on the same port and socket.
    pub(crate) async fn restart_postgres(&mut self) {
        let halt = CancellationToken::new();
        tokio::task::block_in_place(|| self.postgres.restart(&halt)).expect("Postgres comes back");
    }
}

/// The root directory of this program, made with its guard by the first who asks.
fn root() -> &'static Path {
    static ROOT: OnceLock<Root> = OnceLock::new();
    &ROOT.get_or_init(Root::make).path
}

impl Root {
    fn make() -> Root {
        let path = env::temp_dir().join(format!(
            "flashgate-test-{}-{:08x}",
            std::process::id(),
            rand::random::<u32>()
        ));
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh runs");
        let pipe = guard.stdin.as_mut().expect("its input is piped");
        // The guard has to live before there is anything to guard.
        pipe.write_all(b"\n").expect("the guard reads");
        fs::create_dir(&path).expect("the temporary directory can be written");
        Root { path, _guard: guard }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the servers start")
}
