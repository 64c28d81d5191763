"""Flags of all programs: paths, values that are empty, repeated, 0 or out of range, and help."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import compress_jax
from compress_jax.cli import command, comparison, flag_types, help, main
from compress_jax.codec import CodecError

ROOT = Path(__file__).parents[2]


def parsed(*told):
  return command.parse(main.define_flags(), help.manual, ['compress-jax', *told])


def refused(capsys, *told):
  """The line that a command ends with."""
  assert main.main(['compress-jax', *told]) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.count('\n') == 1, err
  return err


PATHS = 'input', 'output', 'images', 'data', 'workdir', 'val', 'start', 'lpips', 'model'


@pytest.mark.parametrize('name', PATHS)
def test_home_and_variables_are_expanded_in_every_path(name, monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere')
  monkeypatch.setenv('SET_A', 'photos')
  wanted = {'~/a': '/somewhere/a', '$HOME/a/': '/somewhere/a/', '/x/${SET_A}/y': '/x/photos/y'}
  for told, path in wanted.items():
    found = parsed(f'--{name}={told}')[name].value
    assert found == ([path] if name == 'data' else path)


def test_every_flag_about_a_file_or_a_folder_is_a_path():
  values = main.define_flags()
  texts = [name for name in values if values[name].flag_type().endswith('string')]
  assert sorted(texts) == ['coordinator', 'flatten', 'preset', 'set']


def test_home_is_expanded_in_options_that_name_files(monkeypatch):
  monkeypatch.setenv('HOME', '/somewhere')
  assert command.settings(['tables=~/a', 'space=~/a']) == {'tables': '/somewhere/a', 'space': '~/a'}


def test_a_name_that_holds_a_dollar_is_taken_where_it_is_there(tmp_path, monkeypatch):
  monkeypatch.setenv('COST', '5')
  assert flag_types.expanded(f'{tmp_path}/a$COST.png') == f'{tmp_path}/a5.png'
  (tmp_path / 'a$COST.png').touch()
  assert flag_types.expanded(f'{tmp_path}/a$COST.png') == f'{tmp_path}/a$COST.png'


@pytest.mark.parametrize('path', ['~nobody-of-this-name/a', '$NOT_SET_ANYWHERE/a'])
def test_what_has_no_value_makes_no_folder_of_its_name(path):
  with pytest.raises(CodecError, match='has no value here'):
    flag_types.expanded(path)
  assert flag_types.expanded(f'./{path}') == f'./{path}'


@pytest.mark.parametrize('name', [*PATHS, 'set', 'flatten', 'preset', 'coordinator'])
@pytest.mark.parametrize('value', ['', ' '])
def test_an_empty_value_is_refused(name, value, capsys):
  assert f'--{name} is empty' in refused(capsys, f'--{name}={value}')


@pytest.mark.parametrize(
  'told', [('--input=a', '--input=b'), ('--mode=eval', '--mode=train'), ('--force', '--noforce')]
)
def test_a_flag_of_one_value_is_refused_where_it_has_two(told, capsys):
  name = told[0].partition('=')[0]
  assert f'{name} is given 2 times' in refused(capsys, *told)


def test_flags_of_several_values_keep_all():
  values = parsed('--data=a', '--data=b', '--set=c=1', '--set=d=2')
  assert values.data == ['a', 'b'] and values.set == ['c=1', 'd=2']


def test_an_option_that_is_set_twice_is_refused(capsys):
  assert '--set=size=... is given twice' in refused(capsys, '--set=size=8', '--set=size=9')
  told = '--method=cae', '--refine=0', '--set=refine=5'
  assert '--refine and --set=refine=... exclude' in refused(capsys, *told)


COUNTS = 'steps', 'batch', 'crop', 'workers', 'inner', 'log_every', 'save_every', 'max_pixels'


@pytest.mark.parametrize('flag', [*COUNTS, 'lr', 'target_bpp', 'target_psnr', 'num_processes'])
def test_zero_is_refused_where_it_has_no_meaning(flag, capsys):
  assert f'--{flag}=0' in refused(capsys, f'--{flag}=0')


@pytest.mark.parametrize('value', ['-1', 'nan', 'inf', '1e999'])
def test_a_positive_number_is_one(value, capsys):
  assert 'positive' in refused(capsys, f'--lr={value}')


def test_a_negative_seed_is_refused(capsys):
  assert '--seed=-1' in refused(capsys, '--seed=-1')


def help_of(capsys, *told):
  assert main.main(['compress-jax', *told]) == 0
  return capsys.readouterr().out


def test_help_shows_every_mode_and_each_mode_its_own_flags(capsys):
  overview = help_of(capsys, '--help')
  for mode in help.MODES:
    assert f'--mode={mode}' in overview
  train, compress = (help_of(capsys, f'--mode={m}', '-h') for m in ('train', 'compress'))
  assert '--steps' in train and '--steps' not in compress
  assert '--flatten' in compress and '--flatten' not in train
  assert '--method' in train and '--method' in compress and '--method' in overview


def test_the_table_of_modes_knows_every_flag_that_is_defined():
  values = main.define_flags()
  assert set(help.flags_of('decompress')) == {
    *('mode', 'method', 'set', 'model', 'input', 'output', 'force', 'skip_existing'),
    *('max_pixels', 'json'),
    *('coordinator', 'num_processes', 'process_id', 'distributed', 'help', 'version'),
  }
  assert {'workdir', 'input', 'output', 'data'} <= set(help.flags_of('export'))
  assert {name for mode in help.MODES for name in help.flags_of(mode)} == {
    name for name in values if name != 'h'
  }
  assert all(set(help.COMMON).isdisjoint(mode.flags) for mode in help.MODES.values())


@pytest.mark.parametrize(
  ('told', 'flag', 'modes'),
  [
    (['--mode=decompress', '--steps=5'], 'steps', 'train'),
    (['--mode=compress', '--lr=1'], 'lr', 'train'),
    (['--mode=compress', '--images=a'], 'images', 'eval, train'),
    (['--mode=export', '--lambda=0.01'], 'lambda', 'eval, compress, train'),
    (['--mode=train', '--depth8'], 'depth8', 'eval, compress'),
    (['--mode=train', '--nodepth8'], 'depth8', 'eval, compress'),
    (['--mode=eval', '--input=a'], 'input', 'compress, decompress, export'),
    (['--coordinator=a:1'], 'coordinator', 'compress, decompress, train'),
  ],
)
def test_a_flag_that_a_mode_does_not_have_is_refused(told, flag, modes, capsys):
  mode = told[0].partition('--mode=')[2] or 'eval'
  line = f'error: --mode={mode} has no --{flag}, which is for: {modes} (--help'
  assert line in refused(capsys, *told)


@pytest.mark.parametrize(
  ('method', 'flag', 'having'),
  [
    ('kmeans', 'steps=5', 'cae, gan, gmm'),
    ('kmeans', 'lambda=0.1', 'cae, gan, gmm'),
    ('kmeans', 'noevaluate', 'cae, gan, gmm'),
    ('cae', 'output=a', 'kmeans'),
    ('gmm', 'force', 'kmeans'),
  ],
)
def test_a_flag_that_training_of_a_method_does_not_have_is_refused(method, flag, having, capsys):
  error = refused(capsys, '--mode=train', f'--method={method}', f'--{flag}')
  name = flag.removeprefix('no').partition('=')[0]
  assert f'--mode=train --method={method} has no --{name}: it is of {having}' in error


@pytest.mark.parametrize('mode', help.MODES)
def test_the_examples_of_a_mode_have_its_flags(mode):
  for example in help.MODES[mode].examples:
    help.check(parsed(f'--mode={mode}', *example.split()))


def test_the_version_stands_in_one_place(capsys):
  assert help_of(capsys, '--version') == f'compress-jax {compress_jax.__version__}\n'
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())
  assert 'version' in project['project']['dynamic']
  attribute = project['tool']['setuptools']['dynamic']['version']['attr']
  assert attribute == 'compress_jax.__version__'


def test_the_package_runs_as_a_module():
  done = subprocess.run(
    [sys.executable, '-m', 'compress_jax', '--version'], cwd=ROOT, capture_output=True, text=True
  )
  assert (done.returncode, done.stdout) == (0, f'compress-jax {compress_jax.__version__}\n')


@pytest.mark.parametrize('mode', ['train', 'export'])
def test_a_place_that_cannot_be_written_is_named_before_any_work(mode, tmp_path, capsys):
  (tmp_path / 'file').touch()
  output = tmp_path / 'file' / 'model.safetensors'
  told = f'--mode={mode}', f'--output={output}', '--data=none'
  told += ('--input=none',) * (mode == 'export')
  assert main.main(['compress-jax', *told]) == 1
  assert f'{output} cannot be written' in capsys.readouterr().err


def test_scripts_expand_paths_too(monkeypatch):
  from experiments import kodak, realism, sweep

  monkeypatch.setenv('HOME', '/somewhere')
  for script in (kodak, realism, sweep):
    values = command.parse(script.define_flags(), '', ['script', '--images=~/photos'])
    assert values.images == '/somewhere/photos'
  assert comparison.variants('mine=cae:~/a') == {'mine': ('cae', {'model': '/somewhere/a'})}


def test_kodak_dir_is_expanded(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('KODAK_DIR', '~/kodak')
  with pytest.raises(CodecError, match=f'KODAK_DIR={tmp_path}{os.sep}kodak lacks 24'):
    from compress_jax.images.kodak import kodak

    kodak()


def test_a_command_is_shown_without_folders_and_machines():
  values = main.define_flags()
  paths = ['--report', '/home/me/x.html', '--images', '/home/me/photos', '--lambdas=0.01,0.02']
  models = '--methods=jpeg,mine=gmm:/home/me/m.safetensors,gmm:~/n.safetensors'
  values(['run.py', *paths, models, '--set=a=1'])
  line = command.command_line('run', values)
  assert 'home' not in line and '~' not in line
  assert set(line.split()) == {
    *('run', '--lambdas=0.01,0.02', '--set=a=1'),
    '--methods=jpeg,mine=gmm:m.safetensors,gmm:n.safetensors',
  }


@pytest.mark.parametrize(
  ('given', 'shown'),
  [
    ('--methods=mine=gmm:/home/my photos/m.safetensors', '--methods=mine=gmm:m.safetensors'),
    ('--methods=mine=gmm:runs/gmm/m.safetensors', '--methods=mine=gmm:m.safetensors'),
    ('--target_bpp=0.5', '--target_bpp=0.5'),
    ('--set=a=1/2', '--set=a=1/2'),
    ('--set=a=$HOME/x', '--set=a=x'),
    ('--set=a=(1,2)', "'--set=a=(1,2)'"),
  ],
)
def test_a_command_keeps_what_is_no_folder(given, shown):
  values = main.define_flags()
  values(['run.py', given])
  assert command.command_line('run', values) == f'run {shown}'
