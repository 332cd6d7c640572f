# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The mounts keep the crates and the objects from one build to the next, outside the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package outlay --bin outlay \
    && cp target/release/outlay /usr/local/bin/outlay

FROM debian:bookworm-slim
# ca-certificates to know the providers by, tzdata for the days and months of the projects' caps.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tzdata \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --create-home --home-dir /var/lib/outlay outlay
COPY --from=build /usr/local/bin/outlay /usr/local/bin/outlay
USER outlay
WORKDIR /var/lib/outlay
EXPOSE 8700
ENTRYPOINT ["outlay"]
CMD ["--help"]
