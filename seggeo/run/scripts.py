"""Job scripts for batch systems, to be read and adapted by whoever runs the cluster; words between @ are filled in.

No path stands in a scheduler's own lines, whose rules of quoting differ: `submit.sh` submits from the folder of the logs,
and each script goes to where the job was planned by itself.
"""

_ABOUT = """\
# Predicts shard k of @SHARDS@ of a seggeo job as task k of an array. Safe to kill, requeue or submit again at any time:
# what is finished is not predicted again. Submit it with submit.sh, which adds the merge.
"""

_WHERE = """\
# Load modules or export here what your model needs.
SEGGEO=@SEGGEO@
JOB=@JOB@
cd @CWD@ || cd "$JOB" || exit 1
"""

_FORWARD = (
    _WHERE
    + """
# Signals come to this shell. It hands the first one on to seggeo, which saves what it has and ends with 75 within 10 s.
asked=
child=
hand_on() { asked=$1; trap : USR1 USR2 TERM; [ -z "$child" ] || kill -USR1 "$child" 2>/dev/null; }
trap 'hand_on USR1' USR1 USR2
trap 'hand_on TERM' TERM
"$SEGGEO" @VERB@ "$JOB" &
child=$!
[ -z "$asked" ] || kill -USR1 "$child" 2>/dev/null  # it came before there was anyone to tell
wait "$child"; code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done
"""
)

_MERGE = (
    _WHERE
    + """
# With parts missing it ends with 4 and says how to submit them again.
exec "$SEGGEO" merge "$JOB"
"""
)

_SUBMIT = """\
#!/bin/sh
# Submits the array, then the merge, which comes when every task has ended, well or badly. Options given here go to the
# array: @EXAMPLE@
set -e
JOB=@JOB@
cd "$JOB/logs"
"""

_SLURM_AGAIN = """
again=no
[ $code -eq 75 ] && again=yes                                # stopped in good order: warned, or by its own clock
[ $code -gt 128 ] && [ "$asked" = USR1 ] && again=yes        # warned while it was starting
[ "$asked" = TERM ] && again=no                              # scancel
[ "${SLURM_RESTART_COUNT:-0}" -lt 100 ] || again=no
if [ $again = yes ]; then
  scontrol requeue "@TASK@" && exit 0
fi
exit $code
"""

SLURM_ARRAY = (
    "#!/bin/bash\n"
    + _ABOUT
    + """\
#
# Adapt these. seggeo runs one process on each core, and memory is asked for by core.
#SBATCH --job-name=seggeo
#SBATCH --array=1-@SHARDS@
#SBATCH --cpus-per-task=1
#SBATCH --mem-per-cpu=@MEMORY@M
#SBATCH --time=01:00:00
##SBATCH --partition=NAME
##SBATCH --account=NAME
@GPU@
#
# Two minutes before its time is up the task is told, saves what it has and goes back into the queue.
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%A_%a.log

"""
    + _FORWARD
    + _SLURM_AGAIN
)

SLURM_MERGE = (
    """\
#!/bin/bash
# Merges a predicted seggeo job across its seams and writes the results.
#SBATCH --job-name=seggeo-merge
#SBATCH --cpus-per-task=1
#SBATCH --mem=2000M
#SBATCH --time=@MERGE_HOURS@:00:00
##SBATCH --partition=NAME
##SBATCH --account=NAME
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=merge_%j.log

# With parts missing it ends with 4 and says how to submit them again.
"""
    + _FORWARD
    + _SLURM_AGAIN
)

SLURM_SUBMIT = (
    _SUBMIT.replace("@EXAMPLE@", "sh submit.sh --time=04:00:00, or --array=3,7 for these shards alone.")
    + """\
array=$(sbatch --parsable "$@" ../array.sbatch)
array=${array%%;*}
merge=$(sbatch --parsable --dependency=afterany:"$array" ../merge.sbatch)
echo "array $array, merge ${merge%%;*}"
"""
)

PBS_ARRAY = (
    "#!/bin/bash\n"
    + _ABOUT
    + """\
#
# Adapt these. seggeo runs one process on each core; with more cores ask for more memory.
#PBS -N seggeo
#PBS -J 1-@PBS_SHARDS@
#PBS -l select=1:ncpus=1:mem=@MEMORY@mb
#PBS -l walltime=01:00:00
#PBS -r y
#PBS -j oe

# PBS has no arrays of one task: the second has nothing to do then.
[ "${PBS_ARRAY_INDEX:-1}" -le @SHARDS@ ] || exit 0

"""
    + _FORWARD.replace('"$JOB" &', '"$JOB" --time-limit 55m &')
    + """
# PBS gives no warning: seggeo stops by itself, by the --time-limit above, a little less than the walltime. Where users may
# have their own jobs run again this does it; elsewhere submit the array again, its finished shards end at once.
if [ $code -eq 75 ] && [ "$asked" != TERM ]; then
  qrerun "$PBS_JOBID" && exit 0
fi
exit $code
"""
)

PBS_MERGE = (
    """\
#!/bin/bash
# Merges a predicted seggeo job across its seams and writes the results.
#PBS -N seggeo-merge
#PBS -l select=1:ncpus=1:mem=2000mb
#PBS -l walltime=@MERGE_HOURS@:00:00
#PBS -j oe

"""
    + _MERGE
)

PBS_SUBMIT = (
    _SUBMIT.replace("@EXAMPLE@", "sh submit.sh -q NAME -l walltime=04:00:00")
    + """\
array=$(qsub "$@" ../array.pbs)
merge=$(qsub -W depend=afterany:"$array" ../merge.pbs)
echo "array $array, merge $merge"
"""
)

LSF_ARRAY = (
    "#!/bin/bash\n"
    + _ABOUT
    + """\
#
# Adapt these. seggeo runs one process on each core; with more cores ask for more memory.
#BSUB -J "seggeo[1-@SHARDS@]"
#BSUB -n 1
#BSUB -R "span[hosts=1] rusage[mem=@MEMORY@MB]"
#BSUB -M @MEMORY@MB
#BSUB -W 1:00
#
# Two minutes before its time is up the task is told; 75 puts it back into the queue, as does the loss of its host.
#BSUB -wa USR1 -wt 2
#BSUB -Q 75
#BSUB -r
#BSUB -o %J_%I.log

"""
    + _FORWARD
    + """
[ "$asked" = USR1 ] && [ $code -ne 0 ] && exit 75
[ "$asked" = TERM ] && [ $code -eq 75 ] && exit 143  # killed by someone: not to be run again
exit $code
"""
)

LSF_MERGE = (
    """\
#!/bin/bash
# Merges a predicted seggeo job across its seams and writes the results.
#BSUB -J seggeo-merge
#BSUB -n 1
#BSUB -R "rusage[mem=2000MB]"
#BSUB -M 2000MB
#BSUB -W @MERGE_HOURS@:00
#BSUB -o merge_%J.log

"""
    + _MERGE
)

LSF_SUBMIT = (
    _SUBMIT.replace("@EXAMPLE@", "sh submit.sh -q NAME -W 4:00")
    + """\
array=$(bsub "$@" < ../array.lsf | sed 's/^Job <\\([0-9]*\\)>.*/\\1/')
bsub -w "ended($array)" < ../merge.lsf
"""
)

SGE_ARRAY = (
    "#!/bin/bash\n"
    + _ABOUT
    + """\
#
# Adapt these. For more processes in a task ask for more slots: -pe NAME 4; h_vmem is for each of them.
#$ -N seggeo
#$ -S /bin/bash
#$ -cwd
#$ -t 1-@SHARDS@
#$ -l h_rt=01:00:00,h_vmem=@MEMORY@M
#$ -notify
#$ -r y
#$ -j y

"""
    + _FORWARD.replace('"$JOB" &', '"$JOB" --time-limit 55m &')
    + """
# 99 puts the task back into the queue. It stops by itself, by the --time-limit above, a little less than h_rt.
[ $code -eq 75 ] && [ "$asked" != TERM ] && exit 99
exit $code
"""
)

SGE_MERGE = (
    """\
#!/bin/bash
# Merges a predicted seggeo job across its seams and writes the results.
#$ -N seggeo_merge
#$ -S /bin/bash
#$ -cwd
#$ -l h_rt=@MERGE_HOURS@:00:00,h_vmem=4000M
#$ -j y

"""
    + _MERGE
)

SGE_SUBMIT = (
    _SUBMIT.replace("@EXAMPLE@", "sh submit.sh -q NAME, or -t 3 for this shard alone.")
    + """\
array=$(qsub -terse "$@" ../array.sge)
array=${array%%.*}
merge=$(qsub -terse -hold_jid "$array" ../merge.sge)
echo "array $array, merge $merge"
"""
)
