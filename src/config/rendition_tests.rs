//! What ddl knows of renditions, tried on URLs.

use proptest::prelude::*;
use url::Url;

use super::*;
use crate::download::Renditions;

fn known(size: u32) -> Renditions {
    Renditions::new(size, &[], &known_renditions().unwrap()).unwrap()
}

#[track_caller]
fn check(renditions: &Renditions, url: &str, expect: Option<&str>) {
    let found = renditions.of(&Url::parse(url).unwrap()).map(String::from);
    assert_eq!(found.as_deref(), expect, "{url}");
}

#[test]
fn every_rule_has_a_source() {
    let known = load_text();
    let Some(Value::Maps(rules)) = known.get("renditions") else { panic!("a list") };
    assert!(rules.len() >= 20, "{}", rules.len());
    for rule in rules {
        let Value::Map(rule) = rule else { panic!("a mapping") };
        assert!(rule.contains_key("source"), "{rule:?}");
    }
    assert_eq!(parse("stored", &to_yaml(&known)).unwrap().get("renditions"), known.get("renditions"));
}

fn load_text() -> Resolved {
    parse("renditions.yaml", include_str!("../../config/renditions.yaml")).unwrap()
}

#[test]
fn inaturalist_has_four_sizes() {
    const BUCKET: &str = "https://inaturalist-open-data.s3.amazonaws.com/photos";
    for (size, expect) in [(1, "small"), (240, "small"), (241, "medium"), (501, "large"), (1024, "large")] {
        let expect = format!("{BUCKET}/31/{expect}.jpg");
        check(&known(size), &format!("{BUCKET}/31/original.jpg"), Some(&expect));
    }
    check(&known(1025), &format!("{BUCKET}/31/original.jpg"), None);
    check(
        &known(224),
        "https://static.inaturalist.org/photos/7/original.JPEG?1545345841",
        Some("https://static.inaturalist.org/photos/7/small.JPEG?1545345841"),
    );
    for url in
        ["photos/31/large.jpg", "photos/x/original.jpg", "photos/31/original.gif", "a/photos/31/original.jpg"]
    {
        check(&known(224), &format!("https://static.inaturalist.org/{url}"), None);
    }
    check(&known(224), "https://static.inaturalist.org.evil.example/photos/31/original.jpg", None);
    check(&known(0), &format!("{BUCKET}/31/original.jpg"), None);
}

#[test]
fn wikimedia_has_widths() {
    const COMMONS: &str = "https://upload.wikimedia.org/wikipedia/commons";
    for (size, width) in [(224, 250), (251, 330), (720, 960), (3840, 3840)] {
        check(
            &known(size),
            &format!("{COMMONS}/a/ab/R%C3%B6te_%281%29.jpg"),
            Some(&format!("{COMMONS}/thumb/a/ab/R%C3%B6te_%281%29.jpg/{width}px-R%C3%B6te_%281%29.jpg")),
        );
    }
    let long = format!("a/ab/{}.jpg", "x".repeat(156));
    let others = [
        "a/ab/F.tif",
        "a/ab/F.svg",
        "a/ab/F.gif",
        "a/ab/F.jpg?x",
        "archive/a/ab/F.jpg",
        "thumb/a/ab/F.jpg/20px-F.jpg",
    ];
    for name in others.into_iter().chain([long.as_str()]) {
        check(&known(224), &format!("{COMMONS}/{name}"), None);
    }
    check(&known(3841), &format!("{COMMONS}/a/ab/F.jpg"), None);
}

#[test]
fn iiif_fits_into_a_square_and_gbif_into_two() {
    let known = known(300);
    for (url, expect) in [
        ("iiif/2/a%2Fb/full/full/0/default.jpg", Some("iiif/2/a%2Fb/full/!300,300/0/default.jpg")),
        ("x/full/max/!90.5/gray.png", Some("x/full/!300,300/!90.5/gray.png")),
        ("x/full/200,/0/default.jpg", None),
        ("x/0,0,10,10/full/0/default.jpg", None),
        ("x/full/full/0/default.tif", None),
        ("x/full/full/0/default.jpg?v=1", None),
        ("full/full/0/default.jpg", None),
        ("x/full/full/0/info.json", None),
    ] {
        let expect = expect.map(|path| format!("http://museum.example:8182/{path}"));
        check(&known, &format!("http://museum.example:8182/{url}"), expect.as_deref());
    }
    check(
        &known,
        "https://api.gbif.org/v1/image/cache/occurrence/1/media/0123456789abcdef0123456789abcdef",
        Some(
            "https://api.gbif.org/v1/image/cache/fit-in/500x500/occurrence/1/media/0123456789abcdef0123456789abcdef",
        ),
    );
}

#[test]
fn huge_urls_are_left_alone() {
    let url = format!("http://a.example/{}/full/full/0/default.jpg", "a/".repeat(1 << 20));
    check(&known(224), &url, None);
}

proptest! {
    #[test]
    fn what_ships_never_panics(
        path in r"/(photos/[0-9]{1,40}/original\.(jpg|PNG)|wikipedia/commons/a/ab/.{0,200}\.jpg|.{0,40}/full/(full|max)/[0-9.!]{0,6}/default\.jpg)",
        server in "(static\\.inaturalist\\.org|upload\\.wikimedia\\.org|b\\.example)",
        size in 0_u32..5000,
    ) {
        let Ok(url) = Url::parse(&format!("http://{server}{path}")) else { return Ok(()) };
        if let Some(rendition) = known(size).of(&url) {
            prop_assert_eq!(rendition.origin(), url.origin());
        }
    }
}
