//! Alerts: what a person is told without having asked.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ProjectId, Wall};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$about])* #[serde(rename = $word)] $variant),+
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word that stands for it in rows, JSON, configuration and labels of metrics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words!(
    /// What an alert is about.
    AlertKind {
        /// A part of a cap is used, or all of it.
        Cap = "cap",
        /// A cap will be used up before its window ends.
        Forecast = "forecast",
        /// The loop guard tripped.
        Guard = "guard",
        /// Calls to a provider or model stopped, and waiting will not mend it.
        Breaker = "breaker",
        /// A model is not what the catalogue says, or its bills are not.
        Drift = "drift",
        /// The ledger does not add up.
        Ledger = "ledger",
        /// Messages were given up.
        DeadLetters = "dead_letters",
        /// A worker fell silent, or was ended by another.
        Worker = "worker",
        /// A channel of alerts was switched off by its receiver.
        Channel = "channel",
        /// Somebody tries whether alerts arrive.
        Test = "test",
    }
);

words!(
    /// How much it matters, least first.
    Severity {
        /// Good to know.
        Info = "info",
        /// Look at it today.
        Warning = "warning",
        /// Look at it now. No quiet hours hold it back.
        Critical = "critical",
    }
);

words!(
    /// How a delivery stands.
    DeliveryState {
        /// It is still to be sent, or is being sent.
        Pending = "pending",
        /// The receiver has it.
        Sent = "sent",
        /// It was tried for days in vain.
        GivenUp = "given_up",
        /// The receiver had switched its channel off.
        Off = "off",
    }
);

/// Something to tell. Two of one topic are one alert, unless the second has a higher level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What exactly it is about.
    pub topic: String,
    /// How far it went, where it can go further: percent of a cap, a power of ten.
    pub level: u32,
    /// What it is about.
    pub kind: AlertKind,
    /// How much it matters.
    pub severity: Severity,
    /// Whose; `None` for the whole fleet.
    pub project: Option<ProjectId>,
    /// One line.
    pub title: String,
    /// What happened, in numbers, and what to do.
    pub text: String,
}

/// A notice that was raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// The same at every try, so that a receiver knows it again.
    pub id: Uuid,
    /// When it was raised.
    pub at: Wall,
    /// What it says.
    pub notice: Notice,
}

impl Alert {
    /// The key by which it is one and not two.
    #[must_use]
    pub fn key(&self) -> String {
        match self.notice.level {
            0 => self.notice.topic.clone(),
            level => format!("{}:{level}", self.notice.topic),
        }
    }
}
