//! Cases of who may do what.

use rstest::rstest;
use uuid::Uuid;

use super::*;
use crate::types::access::TokenId;

fn caller(role: Role, project: Option<&str>) -> Caller {
    Caller { token: TokenId(Uuid::nil()), name: "t".into(), role, project: project.map(Into::into) }
}

/// One row an action; one column each for viewer, producer and admin. `y` yes, `.` no.
#[rstest]
#[case(Action::Read, "y.y")]
#[case(Action::ReadFleet, "y.y")]
#[case(Action::Fetch, "yyy")]
#[case(Action::Submit, ".yy")]
#[case(Action::Change, "..y")]
#[case(Action::ChangeFleet, "..y")]
fn what_each_role_may_do(#[case] action: Action, #[case] expected: &str) {
    for (role, expected) in Role::ALL.into_iter().zip(expected.chars()) {
        for project in [None, Some(ProjectId::from("p"))] {
            assert_eq!(
                may(&caller(role, None), action, project.as_ref()),
                expected == 'y',
                "{role} {project:?}"
            );
        }
    }
}

/// What a token that is good for `p` may do to `p`, to another project, and to all of them together.
#[rstest]
#[case(Role::Viewer, Action::Read, "y..")]
#[case(Role::Viewer, Action::ReadFleet, "yyy")]
#[case(Role::Viewer, Action::Fetch, "y..")]
#[case(Role::Viewer, Action::Change, "...")]
#[case(Role::Producer, Action::Fetch, "y..")]
#[case(Role::Producer, Action::Submit, "y..")]
#[case(Role::Producer, Action::Read, "...")]
#[case(Role::Producer, Action::ReadFleet, "...")]
#[case(Role::Admin, Action::Read, "y..")]
#[case(Role::Admin, Action::ReadFleet, "yyy")]
#[case(Role::Admin, Action::Submit, "y..")]
#[case(Role::Admin, Action::Change, "y..")]
#[case(Role::Admin, Action::ChangeFleet, "...")]
fn a_scope_ends_at_its_project(#[case] role: Role, #[case] action: Action, #[case] expected: &str) {
    let targets = [Some(ProjectId::from("p")), Some("q".into()), None];
    for (project, expected) in targets.iter().zip(expected.chars()) {
        assert_eq!(may(&caller(role, Some("p")), action, project.as_ref()), expected == 'y', "{project:?}");
    }
}

#[test]
fn the_account_is_no_project_that_a_scope_reaches() {
    assert!(!may(&caller(Role::Admin, Some("p")), Action::Change, Some(&ProjectId::account())));
    assert!(may(&caller(Role::Admin, None), Action::Change, Some(&ProjectId::account())));
}

#[rstest]
#[case(None, None, Standing::Good)]
#[case(Some(11), None, Standing::Good)]
#[case(Some(10), None, Standing::Expired)]
#[case(Some(11), Some(9), Standing::Revoked)]
#[case(Some(1), Some(9), Standing::Revoked)]
fn a_token_is_good_until_it_is_not(
    #[case] expires: Option<i64>,
    #[case] revoked: Option<i64>,
    #[case] expected: Standing,
) {
    let token = TokenRow {
        id: TokenId(Uuid::nil()),
        name: "t".into(),
        role: Role::Viewer,
        project: None,
        created_by: "ann".into(),
        created_at: Wall(0),
        expires_at: expires.map(Wall),
        revoked_at: revoked.map(Wall),
        last_used_at: None,
    };
    assert_eq!(standing(&token, Wall(10)), expected);
}

#[rstest]
#[case("ci", true)]
#[case("Ann Ä. @ desk-2", true)]
#[case("", false)]
#[case("outlay", false)]
#[case(" ci", false)]
#[case("a\nb", false)]
#[case("<b>", false)]
fn names(#[case] name: &str, #[case] good: bool) {
    assert_eq!(check_name(name).is_ok(), good, "{name:?}");
    assert!(check_name(&"x".repeat(NAME_MAX + 1)).is_err());
}

#[test]
fn a_version_tells_caps_and_projects_apart() {
    let caps = |day, month| Caps { day, month, total: None };
    let versions = [
        caps_version(&"p".into(), &caps(None, None)),
        caps_version(&"p".into(), &caps(Some(NanoUsd(0)), None)),
        caps_version(&"p".into(), &caps(None, Some(NanoUsd(0)))),
        caps_version(&"q".into(), &caps(None, None)),
    ];
    let distinct: std::collections::BTreeSet<_> = versions.iter().collect();
    assert_eq!(distinct.len(), versions.len());
    assert_eq!(versions[0], caps_version(&"p".into(), &Caps::default()));
}

#[test]
fn a_token_is_recognised_and_its_hash_does_not_show() {
    let token = token_text(&[0xab; 32]);
    assert_eq!(token.len(), TOKEN_PREFIX.len() + 64);
    assert!(token.starts_with("outlay_abab"));
    assert_eq!(format!("{:?}", secret_hash(&token)), "SecretHash(..)");
}
