//! What is measured is put together now and then, whether anybody looks or not: until then each call takes some bytes.

use metrics_exporter_prometheus::PrometheusHandle;
use std::time::Duration;

/// How often.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

/// Goes on for as long as the daemon lives.
pub(super) async fn keep(measures: PrometheusHandle, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        measures.run_upkeep();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    /// Each call took 16 bytes until somebody asked for the metrics, which nobody may ever do.
    #[tokio::test]
    async fn what_nobody_looks_at_takes_no_memory() {
        const CALLS: usize = 1 << 20;
        let statm = || std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident = || statm().split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096;
        let measures = metrics::install().unwrap();
        tokio::spawn(keep(measures.clone(), Duration::from_millis(1)));
        let mut before = 0;
        for round in 0..6 {
            (0..CALLS).for_each(|_| metrics::call("fs.stat", None, Duration::from_micros(7)));
            tokio::time::sleep(Duration::from_millis(20)).await;
            if round == 1 {
                before = resident();
            }
        }
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes");
        let all = format!("wsd_rpc_call_seconds_count{{method=\"fs.stat\"}} {}", 6 * CALLS);
        assert!(measures.render().contains(&all), "{}", measures.render());
    }
}
