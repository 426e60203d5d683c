use super::{compare_report, run_report};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::{Value, json};

const HOSTILE: &str = "<script>alert(\"1\")</script> & 'quoted' \u{0}\u{1b} --> ]]> </style></title>";

/// Parses the page as XML, which is stricter than HTML: each element closed, each text and attribute escaped.
fn check(page: &str) -> usize {
    let closed = page.replace("initial-scale=1\">", "initial-scale=1\"/>");
    let closed = closed.replace("charset=\"utf-8\">", "charset=\"utf-8\"/>").replace("light dark\">", "light dark\"/>");
    let closed = closed.replace("style-src 'unsafe-inline'\">", "style-src 'unsafe-inline'\"/>");
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    let document = Document::parse_with_options(&closed, options).expect("well-formed");
    let elements = || document.descendants().filter(Node::is_element);
    assert!(!elements().any(|element| ["script", "img", "link", "iframe"].contains(&element.tag_name().name())));
    for element in elements() {
        for attribute in element.attributes() {
            let (name, value) = (attribute.name(), attribute.value());
            assert!(!name.starts_with("on") && name != "href" && name != "src", "{name}");
            if ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"].contains(&name) {
                let place: f64 = value.parse().unwrap();
                assert!((0.0..5000.0).contains(&place), "{name}={value}");
            }
            if ["points", "d", "viewBox"].contains(&name) {
                assert!(!value.contains("NaN") && !value.contains("inf"), "{name}={value}");
            }
        }
    }
    elements().filter(|element| element.tag_name().name() == "figure").count()
}

fn full_run() -> Value {
    let second = |i: u32| {
        let slow = if i == 17 { 30.0 } else { 1.0 + f64::from(i * 7 % 5) / 20.0 };
        json!({ "second": i, "ops_per_second": 1.02e6 / slow.sqrt(), "p50_us": 148.0 * slow.sqrt(), "p99_us": 205.0 * slow,
            "p99.9_us": 350.0 * slow, "max_us": 940.0 * slow, "errors": if i == 17 { 3 } else { 0 } })
    };
    let bucket = |i: i32| {
        let low = 60.0 * 1.1f64.powi(i);
        let peak =
            (-(f64::from(i) - 9.5).powi(2) / 8.0).exp() * 3e6 + (-(f64::from(i) - 30.0).powi(2) / 30.0).exp() * 3e4;
        json!([low, low * 1.1, peak.floor()])
    };
    let percentile = |i: i32| {
        let nines = f64::from(i) / 10.0;
        json!([1.0 - 10f64.powf(-nines), 90.0 + 58.0 * (1.0 + nines).powf(2.6)])
    };
    json!({
        "title": "get against torc 0.1.0", "date": "2026-11-20T20:26:49Z",
        "command_line": "torc-bench run --port 6379 --pid 4711 --cpus 1 --preload --verify --command get --pipeline 16 --seconds 30",
        "machine": machine(),
        "command": "get", "connections": 50, "pipeline": 16, "threads": 1, "seed": 1763670409123456789u64,
        "seconds": 30.0, "requests": 30_612_345, "misses": 1234, "ops_per_second": 1_020_411.5, "rate": 1.1e6,
        "latency_us": { "mean": 151.2, "p50": 148.6, "p90": 171.0, "p99": 202.4, "p99.9": 350.7, "p99.99": 1203.2, "max": 28_311.5 },
        "latency_percentiles": (0..=50).map(percentile).collect::<Vec<_>>(),
        "latency_histogram": (0..64).map(bucket).collect::<Vec<_>>(),
        "series": (1..=30).map(second).collect::<Vec<_>>(),
        "errors": { "timeout": 3, "wrong value": 0 },
        "server": { "cpu_ns_per_op": 266.6, "user_share": 0.31, "waiting": 0.004, "rss_bytes_before": 104857600,
            "rss_bytes_after": 115343360, "switches_voluntary": 10234, "switches_involuntary": 12 },
        "load_cpu_ns_per_op": 240.1, "load_busy": 0.961, "load_waiting": 0.004, "load_busy_warning": true
    })
}

fn machine() -> Value {
    json!({ "cpu": "Intel(R) Xeon(R) Processor", "cores": 2, "virtual_machine": true, "memory_gib": 23.5,
        "kernel": "6.18.44", "load_average": "0.26 0.22 0.19 2/89 7202", "date": "2026-11-20T20:26:49Z" })
}

fn spread(median: f64) -> Value {
    json!({ "median": median, "min": median * 0.97, "max": median * 1.06, "rounds": [median, median * 0.97, median * 1.06] })
}

fn full_comparison() -> Value {
    let mut results = Vec::new();
    for (command, value_size) in [("get", 32), ("set", 32), ("get", 1024)] {
        for pipeline in [1, 16, 64] {
            for (server, cost) in
                [("torc", 60.0), ("redis", 800.0), ("valkey", 700.0), ("floor-uring", 1.0), ("floor-epoll", 3.0)]
            {
                let cost = cost + 3100.0 / f64::from(pipeline);
                results.push(json!({
                    "server": server, "floor": server.starts_with("floor"), "command": command, "pipeline": pipeline,
                    "value_size": value_size, "distribution": "uniform", "cpu_ns_per_op": spread(cost),
                    "floor_ratio": spread(cost / (1.0 + 3100.0 / f64::from(pipeline))), "ops_per_second": spread(1e9 / cost),
                    "latency_us": { "p50": spread(cost / 20.0), "p99": spread(cost / 16.0), "p99.9": spread(cost / 9.0) },
                    "load_busy": spread(0.9), "load_waiting": spread(0.01), "server_waiting": spread(0.004),
                    "rounds_limited_by_load": u32::from(server == "torc" && pipeline == 1), "misses": 0
                }));
            }
        }
    }
    let memory = |extra: f64| {
        json!([{ "value_size": 32, "bytes_per_key": 48.0 + extra, "overhead_per_key": extra },
        { "value_size": 1024, "bytes_per_key": 1040.0 + extra, "overhead_per_key": extra }])
    };
    let verdict = |peer: &str, text: &str, decided: bool| {
        json!({ "command": "get", "pipeline": 16, "value_size": 32,
        "distribution": "uniform", "server": "torc", "peer": peer, "text": text, "decided": decided })
    };
    json!({
        "command_line": "torc-bench compare --server \"torc=target/release/torc --port {port} --cores 0\" --rounds 5",
        "machine": machine(),
        "settings": { "connections": 50, "keys": 1000000, "key_size": 16, "ratio": "1:10", "rounds": 5, "seconds": 3,
            "warmup": 0.5, "server_cpus": [0], "load_cpus": [1], "load_threads": 1 },
        "servers": [
            { "name": "torc", "version": "torc 0.1.0", "commands": ["target/release/torc --port {port}"], "memory": memory(18.4) },
            { "name": "redis", "version": "Redis server v=7.0.15", "commands": ["redis-server --save ''"], "memory": memory(64.2) }
        ],
        "results": results,
        "verdicts": [
            verdict("redis", "torc needs 3.9 times less CPU per operation than redis", true),
            verdict("valkey", "the ranges of torc and valkey overlap", false),
        ]
    })
}

/// All places of a value where something can be wrong.
fn replace_each(value: &Value, with: &Value, check: &mut dyn FnMut(&Value)) {
    fn visit(root: &Value, path: &str, with: &Value, check: &mut dyn FnMut(&Value)) {
        let keys: Vec<String> = match root.pointer(path).expect("a path of the value") {
            // One element of a list stands for all.
            Value::Array(list) => (0..list.len().min(1)).map(|i| i.to_string()).collect(),
            Value::Object(fields) => fields.keys().cloned().collect(),
            _ => Vec::new(),
        };
        for key in keys {
            visit(root, &format!("{path}/{key}"), with, check);
        }
        let mut changed = root.clone();
        *changed.pointer_mut(path).expect("a path of the value") = with.clone();
        check(&changed);
    }
    visit(value, "", with, check);
}

#[test]
fn full_reports_have_all_their_parts() {
    let page = run_report(&full_run());
    assert_eq!(check(&page), 4);
    for part in
        ["267 ns", "1,020,412 operations/s", "28.3 ms", "no time to spare", "timeout 3", "99.999 %", "target 1.10 M/s"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("wrong value"), "a kind of error which did not occur");

    let page = compare_report(&full_comparison());
    assert_eq!(check(&page), 9);
    for part in
        ["get, values of 1024 bytes, uniform keys", "within noise", "pipeline 64", "64.2 overhead", "floor 3,101 ns"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("class=\"doubt\"").count(), 1);
    assert!(!page.contains("Other verdicts"));
    let mut elsewhere = full_comparison();
    elsewhere["verdicts"][0]["value_size"] = json!(77);
    let page = compare_report(&elsewhere);
    assert!(page.contains("Other verdicts") && page.contains("get, values of 77 bytes, uniform keys"));
}

#[test]
fn empty_reports_are_pages() {
    for nothing in
        [json!({}), json!(null), json!([]), json!({ "series": [], "results": [], "servers": [{}], "verdicts": [{}] })]
    {
        assert_eq!(check(&run_report(&nothing)), 0);
        assert_eq!(check(&compare_report(&nothing)), 0);
    }
    assert!(!compare_report(&json!({ "results": [{}] })).contains("null"));
}

#[test]
fn any_field_can_be_anything() {
    let nonsense = [
        json!(null),
        json!(-5),
        json!(0),
        json!(1e308),
        json!(-1e308),
        json!(5e-324),
        json!(HOSTILE),
        json!([]),
        json!({}),
    ];
    // Less of what repeats itself, for this makes a report for every field.
    let (mut run, mut comparison) = (full_run(), full_comparison());
    for list in ["series", "latency_percentiles", "latency_histogram"] {
        run[list].as_array_mut().unwrap().truncate(3);
    }
    comparison["results"]
        .as_array_mut()
        .unwrap()
        .retain(|result| result["pipeline"] == 1 && result["command"] == "set");
    for with in nonsense {
        replace_each(&run, &with, &mut |changed| _ = check(&run_report(changed)));
        replace_each(&comparison, &with, &mut |changed| _ = check(&compare_report(changed)));
    }
}

#[test]
fn text_from_elsewhere_is_escaped() {
    let mut run = full_run();
    run["errors"] = json!({ HOSTILE: 1 });
    for field in ["title", "date", "command_line", "command", "machine"] {
        run[field] = json!(HOSTILE);
    }
    run["machine"] = json!({ "cpu": HOSTILE, "kernel": HOSTILE });
    let mut comparison = full_comparison();
    comparison["servers"] = json!([{ "name": HOSTILE, "version": HOSTILE, "commands": [HOSTILE] }]);
    for result in comparison["results"].as_array_mut().unwrap() {
        for field in ["server", "command", "distribution"] {
            result[field] = json!(HOSTILE);
        }
    }
    comparison["verdicts"][0]["text"] = json!(HOSTILE);
    for page in [run_report(&run), compare_report(&comparison)] {
        check(&page);
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
        assert!(!page.contains('\u{0}') && !page.contains('\u{1b}'));
    }
}

#[test]
fn a_single_interval_is_a_dot_and_a_missing_one_a_gap() {
    let second = |i: u32, ops: Value| json!({ "second": i, "ops_per_second": ops });
    let page = run_report(&json!({ "series": [second(1, json!(5))] }));
    assert_eq!((check(&page), page.matches("<circle").count(), page.matches("<polyline").count()), (1, 1, 0));
    let values = [json!(5), json!(6), json!(null), json!(7), json!(8)];
    let series: Vec<Value> = (1..).zip(values).map(|(i, ops)| second(i, ops)).collect();
    let page = run_report(&json!({ "series": series }));
    assert_eq!((check(&page), page.matches("<polyline").count()), (1, 2));
}
