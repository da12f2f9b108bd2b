"""Engines: specification in, launch plan out."""

import json
import sys

import pytest

from runtimes.engines.base import KUBERNETES, LOCAL
from runtimes.engines.registry import UnknownEngineError, engine, engines
from runtimes.launch_plan import LaunchPlan
from runtimes.model_source import same_place
from runtimes.specification import Specification


def test_each_engine_is_found_once():
    assert {"simulator", "custom_command", "llama_cpp"} <= set(engines())


@pytest.mark.parametrize("name", sorted(engines()))
def test_what_every_engine_owes(name):
    subject = engines()[name]
    assert subject.title and subject.summary
    assert {"cpu", "memory", "gpu"} <= set(subject.defaults("", KUBERNETES))
    assert all(default.reason for default in subject.defaults("", KUBERNETES).values())
    assert all(setting.reason for setting in subject.settings)
    assert subject.unavailable_reason(KUBERNETES) is None or subject.unavailable_reason(KUBERNETES).endswith(".")


def test_unknown_engine_names_the_known_ones():
    with pytest.raises(UnknownEngineError, match="simulator"):
        engine("nope")


def test_simulator_plan():
    plan = engine("simulator").plan(
        Specification("simulator", "a/b", engine_settings={"load_time_s": 9}, extra_arguments=("--concurrency", "1")),
        LOCAL,
    )
    assert plan.command[:3] == (sys.executable, "-m", "runtimes.simulator")
    assert "{port}" in plan.command
    assert plan.command[-2:] == ("--concurrency", "1")
    assert plan.start_deadline_s == 129


def test_custom_command_plan_and_errors():
    subject = engine("custom_command")
    good = Specification(
        "custom_command", "a", engine_settings={"command": "sh -c 'sleep {port}'", "health_path": "/", "port": None}
    )
    assert subject.field_errors(good, LOCAL) == {}
    assert subject.plan(good, LOCAL).command == ("sh", "-c", "sleep {port}")
    good.engine_settings["command"] = "serve --port $PORT --and ${PORT} $PORTAL"
    assert subject.plan(good, LOCAL).command == ("serve", "--port", "{port}", "--and", "{port}", "$PORTAL")
    bad = Specification("custom_command", "a", engine_settings={"command": "no-such-program-here", "health_path": "x"})
    assert set(subject.field_errors(bad, LOCAL)) == {"engine_command", "engine_health_path"}
    assert "engine_command" in subject.field_errors(
        Specification("custom_command", "a", engine_settings={"command": "sh '"}), LOCAL
    )


def test_llama_cpp_plan_and_diagnosis():
    subject = engine("llama_cpp")
    plan = subject.plan(
        Specification("llama_cpp", "a/b", model_uri="/m/x.gguf", cpu=3, prompt_caching=False, context_length=512), LOCAL
    )
    words = " ".join(plan.command)
    assert (
        "-m /m/x.gguf" in words
        and "--threads 3" in words
        and "--no-cache-prompt" in words
        and "--ctx-size 512" in words
    )
    assert "model" in subject.field_errors(Specification("llama_cpp", "a/b", model_uri="/no/such.gguf"), LOCAL)
    cause = subject.diagnose(["error: invalid argument: --nope"], 1)
    assert cause.code == "bad_argument" and "--nope" in cause.message


def test_a_specification_survives_storage_without_its_secrets():
    specification = Specification("simulator", "a", secret_environment={"T": "s3cret"}, extra_arguments=("-x",))
    stored = specification.to_json()
    assert "s3cret" not in repr(stored) and "s3cret" not in repr(specification)
    assert Specification.from_json(stored, secret_environment={"T": "s3cret"}) == specification


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"load_time_s": "x"}, "engine_load_time_s"),
        ({"load_time_s": True}, "engine_load_time_s"),
        ({"load_time_s": float("inf")}, "engine_load_time_s"),
        ({"failure_rate": 2}, "engine_failure_rate"),
        ({"concurrency": 1.5}, "engine_concurrency"),
        ({"concurrency": float("nan")}, "engine_concurrency"),
        ({"nope": 1}, "engine_nope"),
    ],
)
def test_settings_of_the_wrong_kind_are_named(settings, field):
    assert list(engine("simulator").setting_errors(Specification("simulator", "a", engine_settings=settings))) == [
        field
    ]


@pytest.mark.parametrize("settings", [{"health_path": ""}, {"command": 7}, {"command": "a\0b"}])
def test_a_text_that_is_missing_or_none_is_refused(settings):
    specification = Specification("custom_command", "a", engine_settings=settings)
    assert engine("custom_command").setting_errors(specification)


@pytest.mark.parametrize(("driver", "image", "field"), [("local", "", "engine_command"), ("kubernetes", "", None)])
def test_a_command_may_be_the_images_own_in_a_pod_only(driver, image, field):
    specification = Specification("custom_command", "a", image=image, engine_settings={"health_path": "/"})
    assert list(engine("custom_command").field_errors(specification, driver)) == ([field] if field else [])


@pytest.mark.parametrize("image", ["", "has space", "-x", "UPPER/case:1 "])
def test_a_pod_needs_the_name_of_an_image(image):
    specification = Specification("simulator", "a", image=image)
    assert engine("simulator").image_error(specification, "kubernetes")
    assert engine("simulator").image_error(specification, "local") is None


def test_vllm_gets_every_field_of_the_form():
    specification = Specification(
        "vllm", "acme/chat", model_uri="org/model", image="vllm/vllm-openai:v0.18.0", context_length=4096, prompt_caching=False,
        gpu=2, extra_arguments=("--seed", "7"), engine_settings={"max_num_seqs": 64, "gpu_memory_utilization": 0.8},
    )  # fmt: skip
    plan = engine("vllm").plan(specification, "kubernetes")
    assert " ".join(plan.command) == (
        "vllm serve org/model --host 0.0.0.0 --port {port} --served-model-name acme/chat --tensor-parallel-size 2 "
        "--gpu-memory-utilization 0.8 --max-model-len 4096 --max-num-seqs 64 --shutdown-timeout 45 --no-enable-prefix-caching "
        "--seed 7"
    )
    assert (plan.gpu, plan.shared_memory, plan.health_path, plan.metrics_path) == (2, 2 << 30, "/health", "/metrics")
    assert engine("vllm").unavailable_reason("local") and not engine("vllm").unavailable_reason("kubernetes")


@pytest.mark.parametrize(
    ("line", "code", "field", "value"),
    [
        ("To serve … the estimated maximum model length is 24576. Try", "context_too_long", "context_length", "24576"),
        ("User-specified max_model_len (9) is greater than the derived max_model_len (max_position_embeddings=2048 or", "context_too_long", "context_length", "2048"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "gpu_out_of_memory", "", ""),
        ("huggingface_hub.errors.GatedRepoError: 401 Client Error", "gated_model", "", ""),
        ("vllm: error: unrecognized arguments: --enable-metrics", "bad_argument", "extra_arguments", ""),
        ("Total number of attention heads (40) must be divisible by tensor parallel size (3)", "bad_argument", "gpu", ""),
    ],
)  # fmt: skip
def test_vllm_says_why_it_did_not_start(line, code, field, value):
    cause = engine("vllm").diagnose(["INFO starting", line, "more"], 1)
    assert (cause.code, cause.field, cause.value) == (code, field, value) and cause.remedy


@pytest.mark.parametrize(
    ("name", "line", "code", "field", "value"),
    [
        ("sglang", "User-specified context_length (65536) is greater than the derived context_length (32768)", "context_too_long", "context_length", "32768"),
        ("sglang", "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.", "gpu_out_of_memory", "engine_mem_fraction_static", ""),
        ("sglang", "launch_server.py: error: unrecognized arguments: --nope", "bad_argument", "extra_arguments", ""),
        ("tei", "error: unexpected argument '--nope' found", "bad_argument", "extra_arguments", ""),
        ("tei", "HTTP status client error (401 Unauthorized) for url", "gated_model", "", ""),
        ("tei", "HTTP status client error (403 Forbidden) for url", "gated_model", "", ""),
        ("nim", "torch.OutOfMemoryError: CUDA out of memory. Tried", "gpu_out_of_memory", "", ""),
        ("nim", "ERROR: NGC_API_KEY is not set", "registry_refused", "", ""),
        ("vllm", "RepositoryNotFoundError: 401 Client Error", "model_unknown", "model", ""),
    ],
)  # fmt: skip
def test_engines_say_why_they_did_not_start(name, line, code, field, value):
    cause = engine(name).diagnose(["INFO starting", line, "more"], 1)
    assert (cause.code, cause.field, cause.value) == (code, field, value) and cause.remedy
    assert engine(name).diagnose(["INFO starting", "all is well"], 0) is None


@pytest.mark.parametrize(
    ("specification", "fields"),
    [
        (Specification("sglang", "a/b"), {"model", "gpu"}),
        (Specification("nim", "a/b", image="", gpu=0), {"image", "gpu", "engine_licence"}),
        (Specification("tei", "a/b", "org/m", image="x:cpu-1.9", gpu=1), {"image"}),
        (Specification("tei", "a/b", gpu=2, image="x:1.9"), {"model", "gpu"}),
        (Specification("llama_cpp", "a/b", "not a model", image="x"), {"model"}),
        (Specification("llama_cpp", "a/b", "org/m:Q4_K_M", image="ghcr.io/ggml-org/llama.cpp:server", gpu=1), {"image"}),
    ],
)  # fmt: skip
def test_what_would_not_start_is_named_by_its_field(specification, fields):
    assert set(engine(specification.engine).field_errors(specification, KUBERNETES)) == fields


def test_a_cache_needs_an_engine_that_downloads_and_a_name_that_a_claim_can_have():
    assert engine("vllm").cache_error(Specification("vllm", "acme/a", cache_claim="acme.models")) is None
    for name in ("acme.Not a name", "acme..models", "acme-labs.models", "models"):
        assert engine("vllm").cache_error(Specification("vllm", "acme/a", cache_claim=name)), name
    assert engine("simulator").cache_error(Specification("simulator", "acme/a", cache_claim="acme.models"))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://bucket", "s3://bucket/path"),
        ("s3:///path", "s3://bucket/path"),
        ("s3://bucket/a/../b", "A path has"),
        ("s3://bucket/a?endpoint=ftp://x", "endpoint is an address"),
        ("s3://bucket/a?endpoint=https://x/../y", "endpoint is an address"),
        ("s3://bucket/a?secret=1", "no option"),
        ("s3://bucket/a?region=EU WEST", "region has"),
        ("pvc://", "pvc://claim/path"),
        ("pvc://acme.models/a b", "A path has"),
        ("pvc://other.models/a", "begins with “acme.”"),
        ("pvc://acme.models/a?x=1", "pvc://claim/path"),
    ],
)
def test_an_address_of_weights_that_can_not_be_used_says_how_one_is_written(uri, said):
    specification = Specification("vllm", "acme/chat", uri, "vllm/vllm-openai:v0.18.0", gpu=1)
    assert said in (engine("vllm").source_error(specification, "kubernetes") or "")


@pytest.mark.parametrize(("image", "drains"), [("v0.18.1", True), ("v1.0.0", True), ("v0.11.0", False), ("latest", False), ("nightly", False)])  # fmt: skip
def test_vllm_is_told_to_finish_its_work_where_it_knows_how(image, drains):
    plan = engine("vllm").plan(Specification("vllm", "a/b", "org/m", f"vllm/vllm-openai:{image}", gpu=1), "kubernetes")
    assert ("--shutdown-timeout" in plan.command) is drains


def test_how_many_at_once_is_the_engines_own_setting():
    for name, setting in (("vllm", "max_num_seqs"), ("sglang", "max_running_requests")):
        assert engine(name).concurrency(Specification(name, "a/b", engine_settings={setting: 4})) == 4


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("org/a", "org/b", True),
        ("org/a", "s3://weights/a", False),
        ("s3://weights/a", "s3://others/b", True),
        ("s3://weights/a?endpoint=https://ours.example", "s3://weights/a", False),
        ("s3://", "s3://", False),
        ("pvc://acme.a/b", "org/a", True),
    ],
)
def test_a_stores_key_goes_to_no_other_place(one, other, same):
    assert same_place(one, other) is same


def test_weights_lead_to_the_same_place_whatever_they_come_from():
    def plan(name, uri, **more):
        chosen = engine(name)
        return chosen.plan(Specification(name, "acme/chat", uri, "image", gpu=1, **more), "kubernetes")

    for name in ("vllm", "sglang", "tei"):
        assert "/mnt/models/llama" in plan(name, "pvc://acme.models/llama").command
        fetched = plan(name, "s3://weights/llama?region=eu")
        assert "/mnt/models" in fetched.command and "model:weights/llama" in fetched.fetch.command
        assert "org/name" in plan(name, "org/name").command
    custom = plan(
        "custom_command", "pvc://acme.models/x", engine_settings={"command": "serve", "health_path": "/", "port": 80}
    )
    assert custom.environment["MODEL_PATH"] == "/mnt/models/x" and custom.volumes[0].read_only
    kept = plan("vllm", "s3://weights/llama", cache_claim="acme.models").volumes
    assert {volume.claim for volume in kept} == {"acme.models"} and kept[1].sub_path.startswith("fetched/")
    # Two stores never share a folder of a claim.
    other = plan("vllm", "s3://weights/other", cache_claim="acme.models").volumes[1]
    assert other.sub_path != kept[1].sub_path
    round_trip = LaunchPlan.from_json(json.loads(json.dumps(fetched.to_json())))
    assert round_trip == fetched


@pytest.mark.parametrize(
    ("name", "driver"), [("nim", "kubernetes"), ("llama_cpp", "local"), ("custom_command", "local")]
)
def test_who_can_not_take_weights_from_there_says_so(name, driver):
    specification = Specification(name, "acme/chat", "s3://weights/llama")
    assert "can't take its model" in engine(name).source_error(specification, driver)


def test_vllms_root_cause_is_found_above_its_api_servers_traceback():
    """As it says it: the engine's own process first, then forty lines of the one that started it."""
    engine_core = [
        "(EngineCore pid=71) ERROR [core.py:866] EngineCore failed to start.",
        "(EngineCore pid=71) ERROR [core.py:866] Traceback (most recent call last):",
        '(EngineCore pid=71) ERROR [core.py:866]   File "core.py", line 857, in run_engine_core',
        "(EngineCore pid=71) ERROR [core.py:866] RuntimeError: NCCL error: unhandled system error",
    ]
    server = ["(APIServer pid=1) Traceback (most recent call last):"]
    server += [f'(APIServer pid=1)   File "x.py", line {number}, in start' for number in range(40)]
    server += ["(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above."]
    cause = engine("vllm").diagnose([*engine_core, *server], 1)
    assert cause.code == "crashed" and "NCCL error: unhandled system error" in cause.message
    assert cause.evidence[-1] == engine_core[-1]
    assert engine("vllm").diagnose(server, 1) is None


def test_of_this_machines_files_pods_tell_nothing(tmp_path):
    """An organization's admin must not learn whether a file is here, nor how large it is."""
    (tmp_path / "secret.gguf").write_bytes(b"x" * 4096)
    told = [engine("llama_cpp").defaults(str(tmp_path / name), KUBERNETES) for name in ("secret.gguf", "missing.gguf")]
    assert told[0] == told[1]
    here = [engine("llama_cpp").defaults(str(tmp_path / name), LOCAL) for name in ("secret.gguf", "missing.gguf")]
    assert here[0] != here[1]
