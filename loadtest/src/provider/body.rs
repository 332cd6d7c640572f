//! The three bodies a response can have: whole, broken off on purpose, and the bill book in pages (a
//! book of millions of bills is not built up in memory first).

use super::book::Book;
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

pub(crate) enum Body {
    Whole(Option<Bytes>),
    Cut(Cut),
    Bills { book: Arc<Book>, next: u64, end: u64 },
}

/// Announces all of its bytes and sends half.
pub(crate) struct Cut {
    half: Option<Bytes>,
    announced: u64,
    flushed: bool,
}

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }

    pub(crate) fn cut(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Cut(Cut {
            half: Some(bytes.slice(..bytes.len() / 2)),
            announced: bytes.len() as u64,
            flushed: false,
        })
    }

    /// All bills that are in the book now, one JSON line each.
    pub(crate) fn bills(book: Arc<Book>) -> Self {
        let end = book.len();
        Self::Bills { book, next: 0, end }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Cut(cut) => {
                if let Some(half) = cut.half.take() {
                    return Poll::Ready(Some(Ok(Frame::data(half))));
                }
                if !cut.flushed {
                    // One turn for hyper to flush what it has: an error at once would discard it.
                    cut.flushed = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(io::Error::other("cut on purpose"))))
            }
            Self::Bills { book, next, end } => {
                if next == end {
                    return Poll::Ready(None);
                }
                let mut lines = Vec::new();
                for bill in book.bills_from(*next) {
                    if next == end {
                        break;
                    }
                    serde_json::to_writer(&mut lines, &bill)?;
                    lines.push(b'\n');
                    *next += 1;
                }
                Poll::Ready(Some(Ok(Frame::data(lines.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Cut(cut) => SizeHint::with_exact(cut.announced),
            Self::Bills { .. } => SizeHint::default(),
        }
    }
}
