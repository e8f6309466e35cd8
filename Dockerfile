# The gateway alone: `flashgate` on a small Debian, as a user of its own.
FROM rust:1.95.0-slim-bookworm AS build
# The allocator is built with it.
RUN apt-get -qq update && apt-get -y -qq install --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --package flashgate \
    && cp target/release/flashgate /usr/local/bin/flashgate

FROM debian:bookworm-20260421-slim
RUN useradd --system --no-create-home --shell /usr/sbin/nologin flashgate
COPY --from=build /usr/local/bin/flashgate /usr/local/bin/flashgate
USER flashgate
# Beyond the container these are what its ports are published to.
ENV FLASHGATE_LISTEN=0.0.0.0:8080 FLASHGATE_ADMIN_LISTEN=0.0.0.0:8081
EXPOSE 8080 8081
ENTRYPOINT ["flashgate"]
CMD ["serve"]
