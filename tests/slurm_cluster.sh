#!/usr/bin/env bash
# slurm_cluster.sh - a real SLURM (munged + slurmctld + N slurmd) on this one host, without systemd, for tests.
#   slurm_cluster.sh start DIR | stop DIR | status DIR | env DIR | down DIR NODE | fail DIR NODE | up DIR NODE
#   (down: the node dies and SLURM finds out in about 30 s; fail: it dies and SLURM is told at once; up: it is back)
#   eval "$(slurm_cluster.sh env DIR)"      -> SLURM_CONF and PATH (sacct stand-in) for the caller
# Settings (environment, read by start): CLUSTER_NODES=3 CLUSTER_CPUS=4 CLUSTER_GPUS=2 (per node)
#   CLUSTER_MEM=4000 (MB per node) CLUSTER_AUTH=munge|none CLUSTER_TIMEOUT=30 (s) CLUSTER_ARRAY=1001 (MaxArraySize)
# Needs Debian packages: slurmctld slurmd slurm-client munge.   Root or any user that has a passwd entry.
set -euo pipefail
die() { echo "slurm: $*" >&2; exit 1; }
[ $# -ge 2 ] || { sed -n '2,9p' "$0"; exit 2; }
cmd=$1; dir=$(mkdir -p "$2" && cd "$2" && pwd -P)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/etc/slurm.conf
nodes=${CLUSTER_NODES:-3} cpus=${CLUSTER_CPUS:-4} gpus=${CLUSTER_GPUS:-2} mem=${CLUSTER_MEM:-4000}
auth=${CLUSTER_AUTH:-munge} timeout=${CLUSTER_TIMEOUT:-30} array=${CLUSTER_ARRAY:-1001}
[[ $dir =~ ^[A-Za-z0-9/_.+-]+$ ]] || die "DIR may hold letters, digits and /_.+- only: slurm.conf has no quoting"
# unix sockets (munge.sock; the slurmstepd sockets in spool/) must stay below 108 bytes
[ ${#dir} -le 70 ] || die "DIR is ${#dir} characters; unix sockets below it would pass 107: take one of at most 70"

alive() { # pid -> true if it runs (a zombie, which stays where pid 1 reaps slowly or never, does not count)
  [ -n "${1:-}" ] && [ -r "/proc/$1/stat" ] && [ "$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null)" != Z ]
}
pid_of() { # daemon -> its pid, if the pid file names a process that is (still) that daemon
  local p; p=$(cat "$dir/run/$1.pid" 2>/dev/null || true); [ "$(cat "/proc/${p:-none}/comm" 2>/dev/null)" != "${1%%-*}" ] || echo "$p"
}
stop_daemons() { # names: TERM, wait 10 s, KILL. By pid, not by pid file: slurmd removes its file long before it is gone
  local n p i left=(); for n; do p=$(pid_of "$n"); if alive "$p"; then kill "$p" 2>/dev/null || true; left+=("$p"); fi; done
  for ((i = 0; i < 100; i++)); do
    for n in "${!left[@]}"; do alive "${left[n]}" || unset "left[n]"; done
    [ ${#left[@]} -gt 0 ] || break; sleep 0.1
  done
  [ ${#left[@]} -eq 0 ] || kill -9 "${left[@]}" 2>/dev/null || true
  for n; do rm -f "$dir/run/$n.pid"; done
}
slurmds() { local f; for f in "$dir"/run/slurmd-*.pid; do [ -e "$f" ] && basename "$f" .pid; done; true; }
job_pids() { # pids of this cluster's job processes and slurmstepds, of node $1 or (none given) of every node
  local p; for p in /proc/[0-9]*; do
    if [ "$(cat "$p/comm")" = slurmstepd ]; then # known by the log file it holds open
      case $(readlink "$p"/fd/* || true) in *"$dir/log/slurmd-${1:+$1.log}"*) echo "${p#/proc/}" ;; esac
    else                                         # known by its environment
      tr '\0' '\n' <"$p/environ" | awk -v c="SLURM_CONF=$SLURM_CONF" -v n="SLURMD_NODENAME=${1:-}" \
        '$0 == c { a = 1 } n == "SLURMD_NODENAME=" ? index($0, n) == 1 : $0 == n { b = 1 } END { exit !(a && b) }' && echo "${p#/proc/}"
    fi
  done 2>/dev/null || true
}
free_base() { # a base port below the ephemeral range (32768) with nodes+1 free ports after it
  local n=$(($(cksum <<<"$dir" | cut -d' ' -f1) % 600)) t p ok
  for ((t = 0; t < 600; t++)); do
    ok=1; for ((p = 0; p <= nodes; p++)); do
      if (exec 3<>"/dev/tcp/127.0.0.1/$((20000 + (n + t) % 600 * 20 + p))") 2>/dev/null; then ok=0; break; fi
    done
    [ $ok = 1 ] && { echo $((20000 + (n + t) % 600 * 20)); return; }
  done; die "no free ports"
}
configure() {
  local host user base; host=$(hostname -s); user=$(id -un); base=$(free_base)
  [ "$nodes" -le 18 ] || die "at most 18 nodes"
  mkdir -p "$dir"/{etc,log,run,spool,state,bin,dev}; chmod 755 "$dir" "$dir"/{etc,log,run,spool,state}
  cat >"$dir/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$base
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/$auth
$([ "$auth" = munge ] && echo "AuthInfo=socket=$dir/run/munge.sock,cred_expire=5" || echo "AuthInfo=cred_expire=5")
CredType=cred/$auth
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation=$dir/state
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmdLogFile=$dir/log/slurmd-%n.log
SlurmdSpoolDir=$dir/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=3
SlurmdTimeout=6
ReturnToService=2
MinJobAge=86400
MaxArraySize=$array
FirstJobId=$(($(date +%s) % 600000 * 100 + 1))
EnforcePartLimits=ALL
GresTypes=gpu
NodeName=node[1-$nodes] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((base + 1))-$((base + nodes))] CPUs=$cpus RealMemory=$mem$([ "$gpus" -gt 0 ] && echo " Gres=gpu:$gpus") State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
CONF
  : >"$dir/etc/gres.conf"; rm -f "$dir"/dev/*
  if [ "$gpus" -gt 0 ]; then # a gpu record needs a File that is a device: links to /dev/null will do, and need no root
    for ((i = 0; i < gpus; i++)); do ln -s /dev/null "$dir/dev/gpu$i"; done
    echo "NodeName=node[1-$nodes] Name=gpu File=$dir/dev/gpu$([ "$gpus" -gt 1 ] && echo "[0-$((gpus - 1))]" || echo 0)" >"$dir/etc/gres.conf"
  fi
  cat >"$dir/bin/sacct" <<'SACCT'
#!/usr/bin/env python3
"""Stand-in for the one sacct call that submitit makes (-o JobID,State,NodeList --parsable2 -j ID ...): no slurmdbd here."""
import os, re, subprocess, sys
ids = [sys.argv[i + 1] for i, a in enumerate(sys.argv) if a == "-j"]
print("JobID|State|NodeList")
for jid in ids:
    out = subprocess.run(["scontrol", "show", "job", "-o", jid], capture_output=True, text=True,
                         env={**os.environ, "SLURM_BITSTR_LEN": "0"}).stdout
    for line in out.splitlines():
        f = dict(re.findall(r"(\w+)=(\S*)", line))
        if "JobId" not in f:
            continue
        name = f"{f['ArrayJobId']}_{f['ArrayTaskId']}" if "ArrayTaskId" in f else f["JobId"]
        if re.search(r"_\d+([-,%].*)$", name):  # several waiting tasks in one record: 12_[3-5%2]
            name = f"{f['ArrayJobId']}_[{f['ArrayTaskId']}]"
        print(f"{name}|{f['JobState']}|{f.get('NodeList', '').replace('(null)', '')}")
SACCT
  chmod 755 "$dir/bin/sacct"
}
start_munge() {
  [ "$auth" = munge ] || return 0
  [ -s "$dir/etc/munge.key" ] || (umask 077; head -c 128 /dev/urandom >"$dir/etc/munge.key")
  # --force: accept parent directories with other modes (a 0700 pytest tmp_path, a 0777 CI workspace)
  munged --force --key-file="$dir/etc/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
    --seed-file="$dir/run/munged.seed" --log-file="$dir/log/munged.log" 2>>"$dir/log/munged.err" || { cat "$dir/log/munged.err" >&2; die "munged failed"; }
}
case $cmd in
start)
  if alive "$(pid_of slurmctld)"; then echo "slurm: already running"; nodes=$(sinfo -h -p debug -o %D)
  else
    [ -e "$dir/etc/slurm.conf" ] || [ -z "$(ls -A "$dir")" ] || die "$dir is neither empty nor a cluster"
    for b in slurmctld slurmd sinfo $([ "$auth" = munge ] && echo munged); do command -v "$b" >/dev/null || die "no $b: apt-get install slurmctld slurmd slurm-client munge"; done
    "$0" stop "$dir" >/dev/null; rm -rf "$dir"/{state,spool,log,run}; configure; start_munge
    slurmctld -c
  fi
  for ((i = 1; i <= nodes; i++)); do
    alive "$(pid_of "slurmd-node$i")" || { mkdir -p "$dir/spool/node$i"; slurmd -N "node$i"; }
  done
  end=$((SECONDS + timeout))
  until [ "$(sinfo -h -N -p debug -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated)$')" = "$nodes" ]; do
    [ $SECONDS -lt $end ] || { sinfo -N -o '%N %T %E' >&2 || true; tail -n 5 "$dir"/log/*.log >&2; die "not up after $timeout s"; }
    sleep 0.1
  done
  sinfo ;;
stop)
  if alive "$(pid_of slurmctld)"; then # end the jobs first: a slurmd with jobs lingers when told to stop
    scancel -u "$(id -un)" 2>/dev/null || true; scancel -u "$(id -un)" --full --signal=KILL 2>/dev/null || true
    for ((i = 0; i < 60; i++)); do [ -n "$(squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
  fi
  # shellcheck disable=SC2046
  stop_daemons $(slurmds)
  for p in $(job_pids); do kill -9 "$p" 2>/dev/null || true; done
  stop_daemons slurmctld; stop_daemons munged; rm -f "$dir"/run/munge.sock* ;;
status) sinfo -N -o '%N %T %C %G %E'; squeue ;;
env) echo "export SLURM_CONF='$SLURM_CONF' PATH='$dir/bin':\"\$PATH\"" ;;
down | fail) # a node dies: its slurmd, its slurmstepds and the processes of its jobs
  p=$(pid_of "slurmd-$3"); if alive "$p"; then kill -9 "$p"; fi; rm -f "$dir/run/slurmd-$3.pid"
  for p in $(job_pids "$3"); do kill -9 "$p" 2>/dev/null || true; done
  [ "$cmd" = down ] || scontrol update "nodename=$3" state=down reason=test ;;
up) alive "$(pid_of "slurmd-$3")" || slurmd -N "$3" ;;
*) die "unknown command $cmd" ;;
esac
