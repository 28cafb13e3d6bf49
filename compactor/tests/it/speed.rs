use crate::testlog::{TestLog, event, HOUR};
#[test]
#[ignore]
fn make_log() {
    let data = std::path::PathBuf::from(std::env::var("SPEED_DATA").unwrap());
    let _ = std::fs::remove_dir_all(&data);
    let mut log = TestLog::new(&data, 256 << 20);
    let total: u64 = std::env::var("SPEED_N").unwrap().parse().unwrap();
    let mut x = 88172645463325252u64;
    for n in 0..total {
        x ^= x << 13; x ^= x >> 7; x ^= x << 17;
        let at = (n as i64) * 3 * HOUR / total as i64;
        let mut e = event(n, at);
        let ms = (crate::testlog::START + at) as u128;
        e.id.uuid = uuid::Uuid::from_u128((ms << 80) | (0x7u128 << 76) | (2u128 << 62) | (u128::from(x) & ((1<<62)-1)));
        e.target = format!("https://shop.example/product/{}", (x >> 20) % 3000).into();
        e.page = format!("https://shop.example/page/{}", (x >> 40) % 300).into();
        e.visitor = format!("{:016x}", x % 100_000).into();
        e.props = vec![];
        log.event(&e);
        if n % 50 == 0 { log.event(&e); }
        if log.length() + 4096 > 256 << 20 { log.next_segment(crate::testlog::START + at); }
    }
    log.commit();
}
