import type { EnrolmentContext } from './context.ts';

/** The script that brings mesh-agent to a machine and joins it; with a token in it for one machine, else for any. */
export function joinScript(
  context: Pick<EnrolmentContext, 'ca' | 'config' | 'hubs'>,
  token: string | undefined,
): string {
  return installScript({
    cluster: context.config.cluster.name,
    ca: context.ca.certificate,
    hubs: context.hubs().map(({ enrolment }) => enrolment),
    token,
  });
}

/**
 * POSIX shell. All of it is one function that is called in the last line: of a download that was cut off nothing runs. It trusts
 * the hub's authority and no other, and what it installs must have the checksum that the hub tells.
 */
export function installScript(facts: {
  readonly cluster: string;
  readonly ca: string;
  readonly hubs: readonly string[];
  readonly token: string | undefined;
}): string {
  const { cluster, ca, hubs, token } = facts;
  return SCRIPT.replaceAll(/@(CLUSTER|HUBS|TOKEN|CA)@/g, (_, name: string) => {
    if (name === 'CLUSTER') return quoted(cluster);
    if (name === 'HUBS') return quoted(hubs.map((url) => url.replace(/\/$/, '')).join(' '));
    if (name === 'TOKEN') return quoted(token ?? '');
    return ca.trimEnd();
  });
}

function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

const SCRIPT = String.raw`#!/bin/sh
# Installs mesh-agent on this machine and joins it to the mesh. Run it as root.
#
#   sh install.sh [--token TOKEN | --token-file FILE] [--name NAME] [--hub URL] [--force] [--no-start]
#
# MESH_AGENT_TOKEN in the environment is a token, too: other users of the machine cannot read it there.

mesh_agent_install() {
  set -eu
  PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export PATH
  cluster=@CLUSTER@
  hubs=@HUBS@
  hub=''
  token=@TOKEN@
  token_file=''
  name=''
  force=''
  start=yes

  say() { printf 'mesh-agent install: %s\n' "$*" >&2; }
  die() {
    say "$*"
    exit 1
  }
  have() { command -v "$1" >/dev/null 2>&1; }

  [ -n "$token" ] || token=$(printf '%s' "\${MESH_AGENT_TOKEN:-}")
  while [ $# -gt 0 ]; do
    case $1 in
      --token | --token-file | --name | --hub)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
          --token) token=$2 token_file='' ;;
          --token-file) token_file=$2 ;;
          --name) name=$2 ;;
          --hub) hub=\${2%/} hubs=\${2%/} ;;
        esac
        shift 2
        ;;
      --force) force=yes && shift ;;
      --no-start) start='' && shift ;;
      *) die "unknown option: $1" ;;
    esac
  done

  [ "$(uname -s)" = Linux ] || die 'this is not Linux'
  [ "$(id -u)" -eq 0 ] || die 'it must be run as root: sudo sh ...'
  case $(uname -m) in
    x86_64 | amd64) deb=amd64 rpm=x86_64 node='(x64|amd64|x86_64)' ;;
    aarch64 | arm64) deb=arm64 rpm=aarch64 node='(arm64|aarch64)' ;;
    *) die "there is no mesh-agent for this architecture: $(uname -m)" ;;
  esac
  have curl || have wget || die 'neither curl nor wget is installed'
  have sha256sum || die 'sha256sum is not installed'
  if [ -n "$token_file" ]; then
    [ -r "$token_file" ] || die "the token file cannot be read: $token_file"
  elif [ -z "$token" ]; then
    die 'a join token is needed: --token TOKEN, or --token-file FILE (on the hub: mesh-agent hub workload token NAME)'
  fi

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  # The authority of the hub is the only one that counts: an empty folder stands for those of the system.
  mkdir "$work/none"
  cat >"$work/ca.crt" <<'CERTIFICATE'
@CA@
CERTIFICATE

  fetch() { # path, file
    for each in $hubs; do
      if have curl; then
        curl -fsS --proto '=https' --tlsv1.2 --cacert "$work/ca.crt" --capath "$work/none" \
          --connect-timeout 10 --retry 3 --retry-delay 2 -o "$2" "$each$1" && return 0
      else
        wget -q --https-only --ca-certificate="$work/ca.crt" --ca-directory="$work/none" \
          --timeout=30 --tries=3 -O "$2" "$each$1" && return 0
      fi
    done
    return 1
  }

  # The last that fits: the list has higher versions later.
  newest() { # pattern
    awk -v pattern="$1" '$2 ~ pattern { line = $0 } END { if (line != "") print line }' "$work/SHA256SUMS"
  }

  choose() {
    if have dpkg; then newest "^mesh-agent_.*_\${deb}[.]deb$" | grep . && return 0; fi
    if have rpm && ! have dpkg; then newest "^mesh-agent-.*[.]\${rpm}[.]rpm$" | grep . && return 0; fi
    newest "^mesh-agent[-_].*\${node}[.]tar[.]gz$" | grep . && return 0
    newest "^mesh-agent[-_].*\${node}$" | grep . && return 0
    newest '^mesh-agent$' | grep .
  }

  place() { # file: puts an executable in place, whole at once
    chmod 0755 "$1"
    "$1" version >/dev/null 2>&1 || die "$(basename "$1") does not run on this machine"
    (umask 022 && mkdir -p /usr/local/bin)
    cp "$1" /usr/local/bin/.mesh-agent.new
    chmod 0755 /usr/local/bin/.mesh-agent.new
    mv -f /usr/local/bin/.mesh-agent.new /usr/local/bin/mesh-agent
  }

  unit() { # for an executable that came without a package
    [ -d /run/systemd/system ] || return 0
    systemctl cat mesh-agent.service >/dev/null 2>&1 && return 0
    cat >/etc/systemd/system/mesh-agent.service <<'UNIT'
[Unit]
Description=mesh-agent: joins this machine to a Cilium ClusterMesh
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStart=/usr/local/bin/mesh-agent run
Restart=on-failure
RestartSec=2
RuntimeDirectory=mesh-agent
StateDirectory=mesh-agent
StateDirectoryMode=0700
UnsetEnvironment=NODE_OPTIONS NODE_EXTRA_CA_CERTS

[Install]
WantedBy=multi-user.target
UNIT
    chmod 0644 /etc/systemd/system/mesh-agent.service
  }

  fetch /packages/SHA256SUMS "$work/SHA256SUMS" || die "the hub cannot be reached, or is not the one of this script: $hubs"
  if chosen=$(choose); then
    file=\${chosen#*  }
    say "installing $file from the hub of cluster $cluster"
    fetch "/packages/$file" "$work/$file" || die "$file cannot be downloaded"
    (cd "$work" && printf '%s\n' "$chosen" | sha256sum -c --quiet -) || die "the checksum of $file is wrong"
    case $file in
      *.deb)
        # The package manager reads it as a user of its own.
        chmod 0755 "$work" && chmod 0644 "$work/$file"
        { have apt-get && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --allow-downgrades "$work/$file" >&2; } ||
          dpkg -i "$work/$file" >&2 || die "$file cannot be installed"
        ;;
      *.rpm)
        { have dnf && dnf install -y "$work/$file" >&2; } || { have yum && yum install -y "$work/$file" >&2; } ||
          { have zypper && zypper --non-interactive install --allow-unsigned-rpm "$work/$file" >&2; } ||
          rpm -U --replacepkgs --oldpackage "$work/$file" >&2 || die "$file cannot be installed"
        ;;
      *.tar.gz)
        mkdir "$work/unpacked"
        tar -xzf "$work/$file" -C "$work/unpacked" --no-same-owner
        found=$(find "$work/unpacked" -type f -name mesh-agent | head -n 1)
        [ -n "$found" ] || die "there is no mesh-agent in $file"
        place "$found" && unit
        ;;
      *) place "$work/$file" && unit ;;
    esac
  elif have mesh-agent; then
    say 'the hub has no package for this machine: the mesh-agent that is installed is used'
  else
    die "the hub has no package for this machine: put one into its packages folder"
  fi
  hash -r

  if [ -z "$token_file" ]; then
    token_file=$work/token
    printf '%s\n' "$token" >"$token_file"
  fi
  mesh-agent join --token-file "$token_file" \${hub:+--hub "$hub"} \${name:+--name "$name"} \${force:+--force}

  if [ -z "$start" ]; then
    say 'joined; start it with: systemctl enable --now mesh-agent'
  elif [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --quiet mesh-agent.service
    systemctl restart mesh-agent.service
    say 'the agent runs: mesh-agent status --wait'
  else
    say 'joined; there is no systemd here: start it with: mesh-agent run'
  fi
}

mesh_agent_install "$@"
`.replaceAll('\\${', '${');
