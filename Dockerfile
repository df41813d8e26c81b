# `docker build .` needs this folder, Docker Hub and crates.io. The cluster tests replace the first stage by a
# folder with a binary that was compiled before: `buildah build --build-context build=DIR .`

FROM rust:1.95 AS build
WORKDIR /src
COPY . .
# One target by name, so that the flag is not for build scripts as well.
RUN target="$(rustc -vV | sed -n 's/^host: //p')" && \
    RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --release --locked --package imageswap --target "$target" && \
    cp "target/$target/release/imageswap" /imageswap

FROM scratch
COPY --from=build /imageswap /imageswap
# The numbers of 1.5.3. Kubernetes can't tell from a name that it is not root.
USER 1898:1898
EXPOSE 5000 9090
ENTRYPOINT ["/imageswap"]
CMD ["serve"]
