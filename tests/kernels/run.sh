#!/usr/bin/env bash
# Runs tests under other kernels: tests/kernels/run.sh DIR [RELEASE...]
#
# DIR holds static test binaries, NAME.test. Each Debian release (default: bullseye bookworm trixie,
# that is Linux 5.10, 6.1 and 6.12) lends its cloud kernel, which boots in QEMU without KVM, from an
# initramfs of busybox, a few modules and the tests. The machine's own apt sources stay as they are:
# packages come through a private apt directory under CACHE. A VM has no network device.
# TEST_FLAGS are handed to each test, as in TEST_FLAGS='-test.run TestFlows', and so is what the environment
# says of TestModel: an emulated machine gives the model fewer packets than another, unless told otherwise.
set -eu -o pipefail

CACHE=${CACHE:-$HOME/.cache/sluice-kernels}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
BOOT_SECONDS=${BOOT_SECONDS:-900}
export SLUICE_MODEL_PACKETS=${SLUICE_MODEL_PACKETS:-20000}
# The last two end sockets, see loader/sweep.go; on a node the kernel loads them when it is asked.
MODULES='veth sch_ingress cls_bpf tcp_diag udp_diag'
here=$(cd "$(dirname "$0")" && pwd)

# fetch RELEASE: its cloud kernel into $CACHE/RELEASE: vmlinuz, version, modules/NN-NAME.ko in order, and
# what these were chosen by.
fetch() {
  local release=$1 dir=$CACHE/$1 apt package version module n=0
  [ "$(cat "$dir/chosen" 2>/dev/null)" != "$MODULES" ] || return 0
  apt=$work/apt
  rm -rf "$apt" "$dir"
  mkdir -p "$apt"/{lists,archives}/partial "$apt/root" "$dir/modules"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $MIRROR $release main" \
    >"$apt/sources.list"
  local options=(-qq -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts=/nonexistent
    -o Dir::State::lists="$apt/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$apt"
    -o Acquire::Languages=none -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update
  # The metapackage depends on the newest kernel.
  package=$(apt-cache "${options[@]}" depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')
  (cd "$apt/archives" && apt-get "${options[@]}" download "$package")
  dpkg-deb -x "$apt"/archives/"$package"_*.deb "$apt/root"

  version=${package#linux-image-}
  version=${version%-unsigned}
  # From trixie on, modules lie below /usr/lib.
  [ -d "$apt/root/lib" ] || ln -s usr/lib "$apt/root/lib"
  depmod -b "$apt/root" "$version"
  # shellcheck disable=SC2086
  modprobe -d "$apt/root" -S "$version" -a --show-depends $MODULES |
    awk '/^insmod/ && !seen[$2]++ {print $2}' >"$apt/order"
  while read -r module; do
    n=$((n + 1))
    name=$(printf '%02d-%s' $n "$(basename "$module" .xz)")
    case $module in
      *.xz) xz -dc "$module" >"$dir/modules/$name" ;;
      *) cp "$module" "$dir/modules/$name" ;;
    esac
  done <"$apt/order"
  cp "$apt/root/boot/vmlinuz-$version" "$dir/vmlinuz"
  echo "$version" >"$dir/version"
  echo "$MODULES" >"$dir/chosen"
  rm -rf "$apt"
}

# boot RELEASE: runs every test on its kernel, the console into $work/RELEASE.log.
boot() {
  local root=$work/root log=$work/$1.log
  rm -rf "$root"
  mkdir -p "$root"/{bin,dev,proc,sys,tmp,run,modules,tests}
  cp /usr/bin/busybox "$root/bin/" 2>/dev/null || cp /bin/busybox "$root/bin/"
  cp "$here/init" "$root/init"
  echo "${TEST_FLAGS:-}" >"$root/flags"
  env | grep '^SLUICE_MODEL_' >"$root/environment"
  cp "$CACHE/$1"/modules/*.ko "$root/modules/"
  cp "$tests"/*.test "$root/tests/"
  # Tests of loader read ../bpf.
  mkdir "$root/src"
  cp -r "$here/../../bpf" "$root/src/"
  (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) >"$work/initramfs"
  # 6.12 panics now and then when it uses cmpxchg16b under TCG. no_timer_check: on a busy machine the
  # emulated timer may be too late for the check at boot.
  nice -n 10 timeout "$BOOT_SECONDS" qemu-system-x86_64 -machine pc -accel tcg,thread=multi \
    -cpu max,-cx16 -smp 2 -m 1G -nic none -nodefaults -display none -no-reboot -serial "file:$log" \
    -kernel "$CACHE/$1/vmlinuz" -initrd "$work/initramfs" \
    -append 'console=ttyS0 quiet panic=-1 no_timer_check' </dev/null &
  qemu=$!
  wait $qemu || echo "$1: QEMU ended with $?"
  qemu=
}

# report RELEASE: one line for each test binary, and what failed. QEMU exits 0 also when the kernel
# panics, so a test has passed only if init says so.
report() {
  local log=$work/$1.log part=$work/part version test name verdict
  version=$(cat "$CACHE/$1/version")
  sed -i 's/\r$//' "$log"
  for test in "$tests"/*.test; do
    name=$(basename "$test" .test)
    sed -n "/^BEGIN $name$/,/^RESULT $name /p" "$log" >"$part"
    verdict=FAIL
    ! grep -q "^RESULT $name 0$" "$part" || verdict=PASS
    printf '%-28s %-8s %s %4d passed %3d skipped %3d failed  %s\n' "$version" "$name" $verdict \
      "$(grep -c '^ *--- PASS' "$part")" "$(grep -c '^ *--- SKIP' "$part")" \
      "$(grep -c '^ *--- FAIL' "$part")" "$(sed -n 's/^TOOK //p' "$part")"
    [ $verdict = FAIL ] || continue
    failed=1
    if [ -s "$part" ]; then grep -Ev '^ *(--- PASS|===)' "$part"; else tail -n 50 "$log"; fi | sed 's/^/    /'
  done
}

tests=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- bullseye bookworm trixie
work=$(mktemp -d "${TMPDIR:-/tmp}/sluice-kernels.XXXXXX")
qemu=
failed=0
trap '[ -z "$qemu" ] || kill "$qemu" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
for release in "$@"; do
  fetch "$release"
  boot "$release"
  report "$release"
  [ -z "${KEEP_LOGS:-}" ] || cp "$work/$release.log" "$KEEP_LOGS/"
done
exit $failed
