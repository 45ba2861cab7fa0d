#!/bin/bash
# A Slurm of one node on this machine, to try --cluster on a real queue. Debian or Ubuntu, as root.
#
#   sim/slurm/local_slurm.sh install          # slurm-wlm and munge, by apt
#   sim/slurm/local_slurm.sh start            # daemons; what they need and log is in $SLURM_LOCAL
#   eval "$(sim/slurm/local_slurm.sh env)"    # let sbatch, squeue and Dask find them
#   python -m sim generate --preset alma --n 8 --seed 7 --out set --cluster sim/slurm/cluster.yaml
#   sim/slurm/local_slurm.sh stop
#
# It keeps its own key, socket and slurm.conf, and touches nothing under /etc. Processes are followed
# by their parents, without cgroups, so that it also runs in a container.
set -euo pipefail

state=${SLURM_LOCAL:-/tmp/local-slurm}
port=${SLURM_LOCAL_PORT:-26817}
host=$(hostname -s)

install_packages() {
    apt-get update
    apt-get install -y --no-install-recommends slurm-wlm munge
}

write_configuration() {
    local memory
    memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat > "$state/slurm.conf" <<END
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$state/munge/munge.socket
CredType=cred/munge
StateSaveLocation=$state/ctld
SlurmdSpoolDir=$state/d
SlurmctldPidFile=$state/slurmctld.pid
SlurmdPidFile=$state/slurmd.pid
SlurmctldLogFile=$state/slurmctld.log
SlurmdLogFile=$state/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SchedulerParameters=batch_sched_delay=1,sched_interval=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=compute Nodes=$host Default=YES MaxTime=INFINITE State=UP
END
    # Read by every daemon of a node, and asks for cgroups unless told otherwise.
    echo "CgroupAutomount=no" > "$state/cgroup.conf"
}

alive() {
    [ -s "$1" ] && kill -0 "$(cat "$1")" 2> /dev/null
}

start_daemons() {
    mkdir -p "$state"/{munge,ctld,d}
    chmod 755 "$state"
    if [ ! -s "$state/munge/munge.key" ]; then
        dd if=/dev/urandom of="$state/munge/munge.key" bs=1024 count=1 status=none
    fi
    chmod 400 "$state/munge/munge.key"
    chown -R munge: "$state/munge"
    chmod 711 "$state/munge"
    write_configuration
    export SLURM_CONF=$state/slurm.conf
    if ! alive "$state/munge/munged.pid"; then
        runuser -u munge -- munged --key-file="$state/munge/munge.key" --socket="$state/munge/munge.socket" \
            --pid-file="$state/munge/munged.pid" --seed-file="$state/munge/munge.seed" \
            --log-file="$state/munge/munged.log"
    fi
    alive "$state/slurmctld.pid" || slurmctld
    alive "$state/slurmd.pid" || slurmd -N "$host"
    for _ in $(seq 30); do
        if sinfo -h -o '%T' 2> /dev/null | grep -q idle; then
            sinfo
            return
        fi
        sleep 1
    done
    echo "the node did not come up; the last lines of its logs:" >&2
    tail -n 5 "$state"/*.log "$state"/munge/*.log >&2
    exit 1
}

stop_daemons() {
    local pid
    for pid in slurmd.pid slurmctld.pid munge/munged.pid; do
        if alive "$state/$pid"; then
            kill "$(cat "$state/$pid")"
        fi
    done
}

case "${1:-}" in
    install) install_packages ;;
    start) start_daemons ;;
    stop) stop_daemons ;;
    env) echo "export SLURM_CONF=$state/slurm.conf" ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0"
        exit 1
        ;;
esac
