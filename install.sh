#!/bin/sh
# Installs mesh-agent on this machine, joins it to a mesh, and starts it. Run it as root; it may be run again.
#
#   sh install.sh --token TOKEN              from the hub that the token names, and join it
#   sh install.sh --from SOURCE [--token T]  from a folder or an https:// address with packages and their SHA256SUMS
#   sh install.sh --uninstall [--purge]      leave the mesh and remove the program; with its configuration and state
#
#   --token-file FILE   the token from a file, - for standard input; MESH_AGENT_TOKEN in the environment is one, too:
#                       other users of the machine cannot read it there
#   --hub URL           address of the hub, instead of those in the token
#   --name NAME         name of the workload: it must be the one of the token
#   --force             replace what a former join left
#   --ca FILE           the authority of the server of the packages; of a hub it is known by the token
#   --key FILE          public key (PEM): SHA256SUMS must be signed by it (SHA256SUMS.sig)
#   --version VERSION   this version, not the newest
#   --no-start          start nothing now, but at the next boot. For images: without a token, the machine joins at its first
#                       boot with the token that it finds in /etc/mesh-agent/join-token
#   --dry-run           say what would be done, change nothing
#
# Nothing runs before the last line is there: of a download that was cut off nothing runs.

mesh_agent_install() {
  set -eu
  PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  export PATH
  # A hub that hands this script out writes here what belongs to it.
  cluster=''
  hubs=''
  token=''
  ca=''
  from='' version='' key='' ca_file='' hub='' token_file='' name='' force='' uninstall='' purge=''
  start=yes dry=''

  say() { printf 'mesh-agent install: %s\n' "$*" >&2; }
  die() {
    say "$*"
    exit 1
  }
  have() { command -v "$1" >/dev/null 2>&1; }
  usage() {
    say "$* (the beginning of this script tells the options)"
    exit 2
  }

  [ -n "$token" ] || token=$(printf '%s' "${MESH_AGENT_TOKEN:-}")
  while [ $# -gt 0 ]; do
    case $1 in
      --token | --token-file | --name | --hub | --from | --ca | --key | --version)
        if [ $# -lt 2 ] || [ -z "$2" ]; then usage "$1 needs a value"; fi
        case $1 in
          --token) token=$2 token_file='' ;;
          --token-file) token_file=$2 ;;
          --name) name=$2 ;;
          --hub) hub=${2%/} ;;
          --from) from=${2%/} ;;
          --ca) ca_file=$2 ;;
          --key) key=$2 ;;
          --version) version=$2 ;;
        esac
        shift 2
        ;;
      --force) force=yes && shift ;;
      --no-start) start='' && shift ;;
      --dry-run) dry=yes && shift ;;
      --uninstall) uninstall=yes && shift ;;
      --purge) purge=yes && shift ;;
      *) usage "unknown option: $1" ;;
    esac
  done
  [ -z "$purge" ] || [ -n "$uninstall" ] || usage '--purge belongs to --uninstall'
  case $version in *[!A-Za-z0-9.+~-]*) usage "that is no version: $version" ;; esac
  case $hub in '' | https://*) ;; *) usage "the address of a hub begins with https:// ($hub)" ;; esac

  [ "$(uname -s)" = Linux ] || die 'this is not Linux'
  [ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || die 'it must be run as root: sudo sh ...'
  case $(uname -m) in
    x86_64 | amd64) deb=amd64 rpm=x86_64 node='(x64|amd64|x86_64)' ;;
    aarch64 | arm64) deb=arm64 rpm=aarch64 node='(arm64|aarch64)' ;;
    *) die "there is no mesh-agent for this architecture: $(uname -m)" ;;
  esac
  # The format of this system's packages, and what of mesh-agent is installed by it.
  format='' installed=''
  if have dpkg; then
    format=deb
    # shellcheck disable=SC2016  # they are dpkg's
    installed=$(dpkg-query -W -f='${db:Status-Status} ${Version}' mesh-agent 2>/dev/null | sed -n 's/^installed //p') || :
  elif have rpm; then
    format=rpm
    installed=$(rpm -q --qf '%{VERSION}' mesh-agent 2>/dev/null) || installed=''
  fi
  systemd=''
  [ ! -d /run/systemd/system ] || systemd=yes

  # Says what is done, and does it unless it is a rehearsal.
  step() {
    if [ -n "$dry" ]; then
      say "would run: $*"
    else
      "$@" >&2
    fi
  }

  remove() {
    if [ -z "$installed" ] && ! have mesh-agent; then
      say 'mesh-agent is not installed'
    elif have mesh-agent; then
      step mesh-agent leave --yes || die 'the machine could not leave the mesh: nothing was removed'
    fi
    if [ -n "$installed" ]; then
      if [ $format = deb ]; then
        option=--remove
        [ -z "$purge" ] || option=--purge
        step dpkg "$option" mesh-agent || die 'the package could not be removed'
      else
        step rpm -e mesh-agent || die 'the package could not be removed'
      fi
    fi
    for each in mesh-agent mesh-agent-restore mesh-agent-join mesh-agent-hub; do
      [ -e "/etc/systemd/system/$each.service" ] || continue
      [ -z "$systemd" ] || step systemctl disable --now --quiet "$each.service" || :
      step rm -f "/etc/systemd/system/$each.service"
    done
    [ ! -e /usr/local/bin/mesh-agent ] || step rm -f /usr/local/bin/mesh-agent
    [ -z "$systemd" ] || step systemctl daemon-reload || :
    if [ -n "$purge" ]; then
      step rm -rf /etc/mesh-agent /var/lib/mesh-agent /run/mesh-agent
    fi
    say 'mesh-agent is removed'
  }
  if [ -n "$uninstall" ]; then
    remove
    return 0
  fi

  have sha256sum || die 'sha256sum is not installed'
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT TERM HUP
  # An empty folder stands for the authorities of the system where only one is believed.
  mkdir "$work/none"

  if [ "$token_file" = - ]; then
    token=$(cat) token_file=''
  elif [ -n "$token_file" ]; then
    [ -r "$token_file" ] || die "the token file cannot be read: $token_file"
    token=$(cat "$token_file")
  fi
  joined=''
  [ ! -e /var/lib/mesh-agent/join.json ] || joined=yes
  if [ -z "$token" ] && [ -z "$from" ] && [ -z "$joined" ]; then
    die 'a join token is needed: --token TOKEN, or --token-file FILE (on the hub: mesh-agent hub workload token NAME)'
  fi

  # The token is base64url of 10 + 24 bytes, the hash of the hub's authority (32), and texts with their lengths: the
  # workload, then the hub's addresses. What makes no sense is left to `mesh-agent join`, which says what is wrong.
  read_token() {
    printf '%s====' "${token#mat1_}" | tr -d ' \n' | tr '_-' '/+' | base64 -d 2>/dev/null >"$work/token.bin" || :
    # shellcheck disable=SC2046  # one word for each byte
    set -- $(od -An -v -tu1 "$work/token.bin")
    [ $# -gt 72 ] || return 0
    pin=$(od -An -v -tx1 -j34 -N32 "$work/token.bin" | tr -d ' \n')
    shift 66
    [ $# -gt $(($1 + 2)) ] || return 0
    at=$((66 + 1 + $1))
    shift $(($1 + 1))
    count=$1
    shift
    at=$((at + 1))
    while [ "$count" -gt 0 ] && [ $# -gt "$1" ]; do
      url=$(od -An -v -tc -j$((at + 1)) -N"$1" "$work/token.bin" | tr -d ' \n')
      case $url in
        https://*) token_hubs="${token_hubs:+$token_hubs }${url%/}" ;;
        *) return 0 ;;
      esac
      at=$((at + 1 + $1))
      shift $(($1 + 1))
      count=$((count - 1))
    done
  }
  pin='' token_hubs=''
  case $token in mat1_*) ! have base64 || read_token ;; esac
  [ -z "$hub" ] || hubs=$hub
  [ -n "$hubs" ] || hubs=$token_hubs

  # Where the files come from, and whom to believe there.
  case $from in
    '')
      sources=''
      for each in $hubs; do sources="$sources $each/packages"; done
      what="the hub${cluster:+ of cluster $cluster}"
      ;;
    https://*) sources=$from what=$from ;;
    *://*) die "only https:// and folders can be trusted: $from" ;;
    *)
      [ -d "$from" ] || die "there is no folder $from"
      sources='' what=$from pin=''
      ;;
  esac
  folder=''
  [ -z "$from" ] || [ -n "$sources" ] || folder=$from
  [ -n "$folder" ] || have curl || have wget || die 'neither curl nor wget is installed'
  believe=''
  if [ -n "$ca_file" ]; then
    [ -r "$ca_file" ] || die "the file of the authority cannot be read: $ca_file"
    cp "$ca_file" "$work/ca.crt" && believe=yes
  elif [ -n "$ca" ] && [ -z "$from" ]; then
    printf '%s\n' "$ca" >"$work/ca.crt" && believe=yes
  fi

  get() { # address, file, options of curl or wget that say whom to believe
    url=$1 out=$2
    shift 2
    if have curl; then
      curl -fsS --proto '=https' --tlsv1.2 --connect-timeout 10 --retry 3 --retry-delay 2 -o "$out" "$@" "$url"
    else
      wget -q --https-only --timeout=30 --tries=3 -O "$out" "$@" "$url"
    fi
  }
  # The authority of a hub is asked of the hub itself, and believed when its key is the one that the token names.
  ask_authority() {
    have openssl || die 'openssl is needed to check the authority of the hub: install it, or give --ca FILE'
    for each in $hubs; do
      insecure=--insecure
      have curl || insecure=--no-check-certificate
      get "$each/v1/ca" "$work/asked.crt" "$insecure" 2>/dev/null || continue
      found=$(openssl x509 -in "$work/asked.crt" -pubkey -noout 2>/dev/null |
        openssl pkey -pubin -outform der 2>/dev/null | sha256sum | cut -d' ' -f1)
      [ "$found" = "$pin" ] || die "the hub $each is not the one that the token names"
      openssl x509 -in "$work/asked.crt" -out "$work/ca.crt" 2>/dev/null && believe=yes && return 0
    done
    die "the hub cannot be reached: $hubs"
  }
  if [ -z "$from" ] && [ -z "$believe" ] && [ -n "$pin" ] && [ -n "$hubs" ]; then ask_authority; fi

  fetch() { # name, file
    if [ -n "$folder" ]; then
      [ -f "$folder/$1" ] && cp "$folder/$1" "$2"
      return
    fi
    for each in $sources; do
      if [ -z "$believe" ]; then
        get "$each/$1" "$2" && return 0
      elif have curl; then
        get "$each/$1" "$2" --cacert "$work/ca.crt" --capath "$work/none" && return 0
      else
        get "$each/$1" "$2" --ca-certificate="$work/ca.crt" --ca-directory="$work/none" && return 0
      fi
    done
    return 1
  }

  # The last that fits: the list has higher versions later.
  newest() { # pattern
    awk -v pattern="$1" '$2 ~ pattern { line = $0 } END { if (line != "") print line }' "$work/SHA256SUMS"
  }
  choose() {
    any=$(printf '%s' "$version" | sed 's/[.+]/[&]/g')
    [ -n "$any" ] || any='[^_]*'
    case $format in
      deb) newest "^mesh-agent_${any}_${deb}[.]deb$" | grep . && return 0 ;;
      rpm) newest "^mesh-agent-${any}(-[^-]*)?[.]${rpm}[.]rpm$" | grep . && return 0 ;;
    esac
    newest "^mesh-agent[-_]${version:+$any.*}.*${node}[.]tar[.]gz$" | grep . && return 0
    newest "^mesh-agent[-_]${version:+$any.*}.*${node}$" | grep . && return 0
    [ -z "$version" ] && newest '^mesh-agent$' | grep .
  }

  install_deb() { # file
    # The package manager reads it as a user of its own.
    chmod 0755 "$work" && chmod 0644 "$1"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    keep='-o Dpkg::Options::=--force-confold'
    if have apt-get; then
      # shellcheck disable=SC2086  # two words
      apt-get install -y -q --allow-downgrades $keep "$1" >&2 && return 0
      # The lists of a fresh machine may be empty.
      # shellcheck disable=SC2086
      apt-get update -q >&2 && apt-get install -y -q --allow-downgrades $keep "$1" >&2 && return 0
    fi
    dpkg --force-confold -i "$1" >&2 && return 0
    # Nothing half-installed stays where there was nothing.
    [ -n "$installed" ] || dpkg --purge mesh-agent >&2 || :
    return 1
  }
  install_rpm() { # file
    if have dnf; then
      dnf install -y "$1" >&2
    elif have yum; then
      yum install -y "$1" >&2
    elif have zypper; then
      zypper --non-interactive install --allow-unsigned-rpm "$1" >&2
    else
      rpm -U --replacepkgs --oldpackage "$1" >&2
    fi
  }
  place() { # file: puts an executable in place, whole at once
    chmod 0755 "$1"
    "$1" version >/dev/null 2>&1 || die "$(basename "$1") does not run on this machine"
    (umask 022 && mkdir -p /usr/local/bin)
    cp "$1" /usr/local/bin/.mesh-agent.new
    chmod 0755 /usr/local/bin/.mesh-agent.new
    mv -f /usr/local/bin/.mesh-agent.new /usr/local/bin/mesh-agent
  }
  units() { # folder: for an executable that came without a package
    [ -n "$systemd" ] || return 0
    found=''
    for each in "$1"/*/usr/lib/systemd/system/*.service; do
      [ -e "$each" ] || continue
      found=yes
      sed 's|=/usr/bin/mesh-agent|=/usr/local/bin/mesh-agent|' "$each" >"/etc/systemd/system/$(basename "$each")"
      chmod 0644 "/etc/systemd/system/$(basename "$each")"
    done
    [ -z "$found" ] || return 0
    systemctl cat mesh-agent.service >/dev/null 2>&1 && return 0
    cat >/etc/systemd/system/mesh-agent.service <<'UNIT'
[Unit]
Description=Joins this machine to a Cilium ClusterMesh and enforces its policies
After=network.target

[Service]
Type=notify
ExecStartPre=-/usr/local/bin/mesh-agent restore
ExecStart=/usr/local/bin/mesh-agent run
ExecReload=/usr/local/bin/mesh-agent config reload
Restart=on-failure
RestartSec=2
WatchdogSec=30
RuntimeDirectory=mesh-agent
StateDirectory=mesh-agent
StateDirectoryMode=0700
UnsetEnvironment=NODE_OPTIONS NODE_EXTRA_CA_CERTS

[Install]
WantedBy=multi-user.target
UNIT
    chmod 0644 /etc/systemd/system/mesh-agent.service
  }

  check_signature() {
    have openssl || die 'openssl is needed to check the signature'
    fetch SHA256SUMS.sig "$work/SHA256SUMS.sig" || die "there is no signature (SHA256SUMS.sig) at $what"
    openssl dgst -sha256 -verify "$key" -signature "$work/SHA256SUMS.sig" "$work/SHA256SUMS" >/dev/null 2>&1 ||
      die 'the signature of SHA256SUMS is wrong'
  }

  bring() {
    fetch SHA256SUMS "$work/SHA256SUMS" ||
      die "the hub cannot be reached, or is not the one of this script: ${sources:-$folder/SHA256SUMS}"
    [ -z "$key" ] || check_signature
    if ! chosen=$(choose); then
      [ -z "$version" ] || die "there is no mesh-agent $version for this machine at $what"
      have mesh-agent || die "there is no package for this machine at $what: put one into its packages folder"
      say "there is no package for this machine at $what: the mesh-agent that is installed is used"
      return 0
    fi
    file=${chosen#*  }
    case $file in */* | .*) die "that is no name of a package: $file" ;; esac
    offered=$(printf '%s' "$file" | sed -n 's/^mesh-agent_\([^_]*\)_.*[.]deb$/\1/p; s/^mesh-agent-\(.*\)-[^-]*[.][^.]*[.]rpm$/\1/p')
    if [ -n "$installed" ] && [ "$installed" = "$offered" ]; then
      say "mesh-agent $installed is installed already"
      return 0
    fi
    if [ -n "$dry" ]; then
      say "would install $file from $what"
      return 0
    fi
    say "installing $file from $what"
    fetch "$file" "$work/$file" || die "$file cannot be downloaded"
    (cd "$work" && printf '%s\n' "$chosen" | sha256sum -c - >/dev/null 2>&1) || die "the checksum of $file is wrong"
    case $file in
      *.deb) install_deb "$work/$file" || die "$file cannot be installed" ;;
      *.rpm) install_rpm "$work/$file" || die "$file cannot be installed" ;;
      *.tar.gz)
        mkdir "$work/unpacked"
        tar -xzf "$work/$file" -C "$work/unpacked" --no-same-owner || die "$file cannot be unpacked"
        found=$(find "$work/unpacked" -type f -name mesh-agent -perm -100 | head -n 1)
        [ -n "$found" ] || die "there is no mesh-agent in $file"
        place "$found"
        units "$work/unpacked"
        ;;
      *)
        place "$work/$file"
        units "$work/none"
        ;;
    esac
  }
  # A machine that joined before goes on without a source, when none is given.
  if [ -n "$sources$folder" ]; then
    bring
  elif ! have mesh-agent; then
    die 'it is not known where mesh-agent comes from: --from SOURCE, or --hub URL'
  fi
  hash -r

  if [ -n "$token" ]; then
    # Nobody else reads it there, and it is in no list of processes.
    (umask 077 && printf '%s\n' "$token" >"$work/token")
    step mesh-agent join --token-file "$work/token" ${hub:+--hub "$hub"} ${name:+--name "$name"} ${force:+--force}
    joined=yes
  fi

  enabled=''
  for each in mesh-agent mesh-agent-restore mesh-agent-join; do
    if [ -e "/usr/lib/systemd/system/$each.service" ] || [ -e "/etc/systemd/system/$each.service" ]; then
      enabled="${enabled:+$enabled }$each.service"
    fi
  done
  [ -z "$dry" ] || enabled=${enabled:-mesh-agent.service}
  if ! have systemctl || [ -z "$enabled" ]; then
    say 'done; there is no unit for systemd here: start it with: mesh-agent run'
  elif [ -z "$start" ] || [ -z "$joined" ]; then
    [ -z "$systemd" ] || step systemctl daemon-reload
    # shellcheck disable=SC2086  # several words
    step systemctl enable --quiet $enabled
    if [ -n "$joined" ]; then
      say 'joined; it starts at the next boot, or with: systemctl start mesh-agent'
    else
      say 'installed; the machine joins at its next boot with the token in /etc/mesh-agent/join-token, or with: mesh-agent join'
    fi
  elif [ -z "$systemd" ]; then
    say 'joined; there is no systemd here: start it with: mesh-agent run'
  else
    step systemctl daemon-reload
    # shellcheck disable=SC2086  # several words
    step systemctl enable --quiet $enabled
    step systemctl restart mesh-agent.service
    say 'the agent runs: mesh-agent status --wait'
  fi
}

mesh_agent_install "$@"
