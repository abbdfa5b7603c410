//! What the recordings' summary states, tried on other schedulers, families, modes, ports and
//! orders than were recorded.

mod behaviour {
    mod commands;
    mod flows;
    mod forwarding;
    mod persistence;
    mod schedulers;
}
