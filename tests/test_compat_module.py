"""The module `blueprint_llm.litellm` and `install()`: whose each name is, patches in every order, no recursion."""

import asyncio
import functools
import inspect
import itertools
import os
import subprocess
import sys
import threading
from types import ModuleType
from unittest import mock

import litellm as theirs
import pytest
from guarding import CountingGuard

import blueprint_llm
from blueprint_llm import errors
from blueprint_llm import litellm as ours
from blueprint_llm.compat import guarding as guards
from blueprint_llm.compat.guarding import ASYNC, CALLS

HI = [{"role": "user", "content": "hi"}]
ASK = {"model": "gpt-4o", "messages": HI, "mock_response": "hello"}
LISTED = [
    *("completion", "text_completion", "embedding", "responses", "image_generation", "transcription", "speech"),
    *("rerank", "moderation"),
]
# LiteLLM's logging worker starts a task that a short event loop does not live to see.
pytestmark = [
    pytest.mark.usefixtures("litellm_warm"),
    pytest.mark.filterwarnings("ignore:coroutine 'LoggingWorker:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def guard(monkeypatch):
    """A guard that counts, shared by the functions."""
    counting = CountingGuard()
    monkeypatch.setattr(guards, "build", lambda config: counting)
    guards.forget()
    return counting


@pytest.fixture(autouse=True)
def patches():
    """Patches of the test; when they are undone, LiteLLM's functions and the class of its module are as before."""
    before = {name: vars(theirs)[name] for name in (*CALLS, "Router") if name in vars(theirs)}
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield monkeypatch
    blueprint_llm.uninstall()
    assert type(theirs) is ModuleType
    assert {name: vars(theirs).get(name) for name in before} == before


def text(answer):
    """What an answer says."""
    return answer.choices[0].message.content


def test_importing_loads_no_litellm():
    """Neither the package, nor its functions' names, nor the module object load LiteLLM; the first look does."""
    program = (
        "import sys\nimport blueprint_llm\nfrom blueprint_llm import litellm, Router, install, uninstall\n"
        "dir(blueprint_llm); print([n for n in ('litellm', 'openai', 'httpx') if n in sys.modules])\n"
        "litellm.drop_params; print('litellm' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.split("\n")[:2] == ["[]", "True"]


def test_top_level_holds_our_names_only():
    """Nothing of LiteLLM's falls through the package, and what is there is ours."""
    assert blueprint_llm.BudgetExceededError is errors.BudgetExceededError
    assert {"completion", "acompletion", "Router", "install", "uninstall", "litellm"} <= set(blueprint_llm.__all__)
    for name in ("embedding", "drop_params", "exceptions", "no_such_name"):
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(blueprint_llm, name)


def test_every_other_name_is_litellms(guard):
    """Modules, exceptions, settings and types are LiteLLM's own, none is shadowed; only functions are guarded."""
    own = {"Router", "anthropic", "__path__", "__spec__", "__loader__", "__class__"}
    for name in dir(theirs):
        if name not in CALLS and name not in own and not name.startswith("batch_completion"):
            assert getattr(ours, name) is getattr(theirs, name), name
    assert all(getattr(ours, name) is not getattr(theirs, name) for name in CALLS if hasattr(theirs, name))
    assert vars(ours) is vars(theirs)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ours.no_such_name


def test_submodules_are_not_imported_twice():
    """`import blueprint_llm.litellm.types` would make a copy of LiteLLM's module: it is refused."""
    with pytest.raises(ModuleNotFoundError):
        __import__("blueprint_llm.litellm.types")


def test_set_and_deleted_names_are_litellms(monkeypatch):
    """A setting made through the module is LiteLLM's, also one that it does not have yet."""
    monkeypatch.setattr(theirs, "drop_params", False)

    ours.drop_params = True
    ours.a_new_name = 1
    added = theirs.a_new_name
    del ours.a_new_name

    assert (theirs.drop_params, added) == (True, 1)
    assert not hasattr(theirs, "a_new_name")


@pytest.mark.parametrize("name", sorted(CALLS))
def test_functions_look_like_litellms(name, guard):
    """Each guarded function has its name, signature and kind, and stays the same object."""
    if not hasattr(theirs, name):
        pytest.skip(f"this LiteLLM has no {name}")
    one, other = getattr(ours, name), getattr(theirs, name)

    assert getattr(ours, name) is one
    assert (one.__name__, one.__module__, inspect.signature(one)) == (
        other.__name__,
        other.__module__,
        inspect.signature(other),
    )
    assert inspect.iscoroutinefunction(one) == inspect.iscoroutinefunction(other) == (name in ASYNC)


def test_the_listed_functions_are_guarded():
    """Every function that the documentation names is among them, in both forms."""
    assert {*LISTED, *(f"a{name}" for name in LISTED)} <= CALLS


@pytest.mark.parametrize("through", ["module", "top level", "installed"])
def test_calls_pass_the_guard_once(through, guard):
    """One call of either kind is one call for the guard, by keyword or by position."""
    module = {"module": ours, "top level": blueprint_llm, "installed": theirs}[through]
    if through == "installed":
        blueprint_llm.install(guard)

    said = [text(module.completion(**ASK)), text(asyncio.run(module.acompletion("gpt-4o", HI, mock_response="hello")))]

    assert said == ["hello", "hello"]
    assert [(each.operation, each.keywords["model"]) for each in guard.booked] == [
        ("completion", "gpt-4o"),
        ("acompletion", "gpt-4o"),
    ]
    assert guard.endings == ["ok", "ok"]


def test_wrong_arguments_are_type_errors(guard):
    """What LiteLLM's functions cannot be called with, ours cannot either; nothing is booked for it."""
    with pytest.raises(TypeError, match="multiple values for argument 'model'"):
        ours.completion("gpt-4o", model="gpt-4o", messages=HI)
    with pytest.raises(TypeError, match="positional arguments but 90 were given"):
        ours.completion(*range(90))

    assert guard.booked == []


def test_a_sync_call_runs_in_its_callers_thread(guard):
    """The function runs where it was called; the guard on a loop elsewhere; also inside a running loop."""
    ran = []

    def function(**_):
        ran.append(threading.get_ident())
        return "answer"

    async def inside():
        return ours.completion(model="m")

    with mock.patch.object(theirs, "completion", function):
        said = ours.completion(model="m"), asyncio.run(inside())

    assert said == ("answer", "answer")
    assert set(ran) == {threading.get_ident()}
    assert threading.get_ident() not in {each.thread for each in guard.booked}


def test_an_interrupt_settles_and_is_raised(guard):
    """Ctrl-C in LiteLLM's blocking call leaves no call open, and reaches the program."""

    def interrupted(**_):
        raise KeyboardInterrupt

    with mock.patch.object(theirs, "completion", interrupted), pytest.raises(KeyboardInterrupt):
        ours.completion(model="m")

    assert guard.endings == ["CancelledError"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_calls_anew(guard):
    """A child of a process that has called before calls through a loop of its own."""
    ours.completion(**ASK)
    program = os.fork()
    if not program:
        os._exit(0 if text(ours.completion(**ASK)) == "hello" else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(program, 0)[1]) == 0


@pytest.mark.parametrize("through", ["module", "installed"])
def test_functions_that_call_the_listed_ones_are_guarded(through, guard):
    """What LiteLLM asks many at once by, and its module for Anthropic's messages, pass the guard."""
    module = {"module": ours, "installed": theirs}[through]
    before = theirs.anthropic.messages.acreate
    if through == "installed":
        blueprint_llm.install(guard)
    asked = {"model": "anthropic/claude-sonnet-4-5", "messages": HI, "max_tokens": 5, "mock_response": "hello"}

    module.batch_completion(model="gpt-4o", messages=[HI, HI], mock_response="hello")
    module.batch_completion_models(models=["gpt-4o"], messages=HI, mock_response="hello")
    asyncio.run(module.anthropic.messages.acreate(**asked))
    asyncio.run(module.anthropic.acreate(**asked))
    module.anthropic.messages.create(**asked)
    blueprint_llm.uninstall()
    asyncio.run(theirs.anthropic.messages.acreate(**asked))

    assert guard.operations == [*["completion"] * 3, *["anthropic_messages"] * 2, "anthropic_messages_handler"]
    assert guard.booked[-1].keywords["max_tokens"] == 5
    assert (theirs.anthropic.messages.acreate, type(theirs.anthropic)) == (before, ModuleType)


@pytest.mark.parametrize("through", ["module", "installed"])
def test_a_mock_of_the_messages_is_put_back(through, guard):
    """A double in the place of LiteLLM's function for messages answers, guarded, and leaves with its patch."""
    before, place = theirs.anthropic.messages.acreate, {"module": ours, "installed": theirs}[through].anthropic.messages
    with blueprint_llm.install(guard), mock.patch.object(place, "acreate", new=mock.AsyncMock(return_value="double")):
        assert asyncio.run(theirs.anthropic.messages.acreate(model="x", messages=HI, max_tokens=5)) == "double"

    assert theirs.anthropic.messages.acreate is before
    assert guard.operations == ["anthropic_messages"]


def test_install_twice_is_installed_once(guard):
    """Installing again changes nothing, one `uninstall` ends it, and another one does no harm."""
    before = theirs.completion
    blueprint_llm.install(guard)
    blueprint_llm.install(guard)
    theirs.completion(**ASK)
    blueprint_llm.uninstall()
    blueprint_llm.uninstall()
    theirs.completion(**ASK)

    assert guard.operations == ["completion"]
    assert theirs.completion is before


def test_nested_contexts_give_back_the_outer_guard():
    """Leaving an inner `with install(...)` leaves the outer one's guard in place."""
    outer, inner = CountingGuard(), CountingGuard()
    with blueprint_llm.install(outer):
        with blueprint_llm.install(inner):
            theirs.completion(**ASK)
        theirs.completion(**ASK)

    assert (outer.operations, inner.operations) == (["completion"], ["completion"])


def test_install_guards_litellms_own_router(guard):
    """A Router that some library makes has guarded attempts, too."""
    entry = {"model_name": "a", "litellm_params": {"model": "openai/gpt-4o", "api_key": "k", "mock_response": "routed"}}
    with blueprint_llm.install(guard):
        router = theirs.Router(model_list=[entry])  # noqa: TID251 - some library's
        said = asyncio.run(router.acompletion("a", HI)), router.completion("a", HI)

    assert list(map(text, said)) == ["routed", "routed"]
    assert guard.operations == ["acompletion", "completion"]


def test_what_litellm_calls_inside_is_not_guarded_twice(guard):
    """A call through which LiteLLM makes others of its functions is one call."""
    with blueprint_llm.install(guard):
        theirs.text_completion(model="gpt-4o", prompt="hi", mock_response="hello")
        asyncio.run(theirs.acompletion(**ASK, num_retries=1))
        asyncio.run(theirs.aresponses(model="gpt-4o", input="hi", mock_response="hello"))

    assert guard.operations == ["text_completion", "acompletion", "aresponses"]


@pytest.mark.parametrize("inside_loop", [False, True])
def test_fallbacks_of_a_call_are_attempts_of_their_own(guard, inside_loop):
    """In place, each model that LiteLLM asks in turn is guarded by itself; nothing is booked twice."""
    ask = {"model": "openai/gpt-4o", "messages": HI, "mock_response": "hello", "fallbacks": ["openai/gpt-4o-mini"]}
    guard.refuse = frozenset({"openai/gpt-4o"})

    async def inside():
        return theirs.completion(**ask)

    with blueprint_llm.install(guard):
        answer = asyncio.run(inside()) if inside_loop else asyncio.run(theirs.acompletion(**ask))

    assert text(answer) == "hello"
    assert [each.keywords["model"] for each in guard.booked] == ["openai/gpt-4o-mini"]


def test_a_callback_that_calls_is_guarded(guard):
    """What a callback asks for after the call has ended is a call of its own."""
    done = threading.Event()

    def callback(keywords, *_):
        if keywords["model"] == "gpt-4o":
            ours.completion(model="gpt-4o-mini", messages=HI, mock_response="judged")
            done.set()

    with mock.patch.object(theirs, "success_callback", [callback]):
        ours.completion(**ASK)
        assert done.wait(10)

    assert [each.keywords["model"] for each in guard.booked] == ["gpt-4o", "gpt-4o-mini"]


# Patches


def double(*_, **__):
    """What a test puts in a function's place."""
    return "double"


async def adouble(*_, **__):
    """The same, async."""
    return "double"


def doubles(name):
    """A double of the function's kind."""
    return adouble if name in ASYNC else double


def called(module, name):
    """What the function of `module` answers."""
    answer = getattr(module, name)(**ASK)
    answer = asyncio.run(answer) if inspect.iscoroutine(answer) else answer
    return answer if isinstance(answer, str) else text(answer)


class Patches:
    """Patching by hand, so that the order of putting back is free."""

    def __init__(self, how, target, name):
        if how == "mock":
            patcher = mock.patch.object(target, name, doubles(name))
            self.start, self.stop = patcher.start, patcher.stop
        else:
            monkey = pytest.MonkeyPatch()
            self.start, self.stop = (lambda: monkey.setattr(target, name, doubles(name))), monkey.undo


ORDERS = [
    order
    for order in itertools.permutations(["install", "patch", "unpatch", "uninstall"])
    if order.index("install") < order.index("uninstall") and order.index("patch") < order.index("unpatch")
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("target", ["theirs", "ours"])
@pytest.mark.parametrize("how", ["mock", "monkeypatch"])
@pytest.mark.parametrize("name", ["completion", "acompletion"])
def test_patches_in_every_order_leave_no_trace(name, how, target, order, guard):
    """Whoever patched first and whoever puts back first, LiteLLM is itself again at the end.

    In between the double is called while it is there, and calls are guarded while we are installed and nobody patches.
    """
    original = vars(theirs)[name]
    patching = Patches(how, ours if target == "ours" else theirs, name)
    steps = {
        "install": lambda: blueprint_llm.install(guard),
        "uninstall": blueprint_llm.uninstall,
        "patch": patching.start,
        "unpatch": patching.stop,
    }
    state = set()
    for step in order:
        steps[step]()
        state = state - {step[2:]} if step.startswith("un") else state | {step}
        booked = len(guard.booked)

        assert called(theirs, name) == ("double" if "patch" in state else "hello")
        if "patch" not in state:
            assert len(guard.booked) - booked == ("install" in state)

    assert vars(theirs)[name] is original
    assert getattr(theirs, name) is original
    assert type(theirs) is ModuleType


@pytest.mark.parametrize("target", ["theirs", "ours"])
def test_a_mock_is_found_where_it_was_put(target, guard):
    """A test that patches after us reads its own mock back and sees its calls."""
    blueprint_llm.install(guard)
    module = {"theirs": theirs, "ours": ours}[target]
    with mock.patch.object(module, "completion") as patched:
        assert module.completion is patched
        module.completion(model="m")

    patched.assert_called_once_with(model="m")


def test_patching_by_name(guard):
    """`mock.patch("blueprint_llm.litellm.acompletion")` finds its target."""
    with mock.patch("blueprint_llm.litellm.acompletion", new_callable=mock.AsyncMock) as patched:
        patched.return_value = "mocked"

        assert asyncio.run(ours.acompletion(model="m", messages=HI)) == "mocked"
        assert asyncio.run(theirs.acompletion(model="m", messages=HI)) == "mocked"


@pytest.mark.parametrize("wraps", [False, True])
@pytest.mark.parametrize("first", ["wrapper", "install"])
def test_other_wrappers_stay_in_the_call(first, wraps, guard):
    """A library that wraps LiteLLM's function before or after us is called, once, and so is the guard."""
    seen = []

    def wrap():
        inner = theirs.completion

        def wrapper(*args, **keywords):
            seen.append(1)
            return inner(*args, **keywords)

        theirs.completion = functools.wraps(inner)(wrapper) if wraps else wrapper

    original = theirs.completion
    steps = [wrap, lambda: blueprint_llm.install(guard)]
    for step in steps if first == "wrapper" else reversed(steps):
        step()
    said = text(theirs.completion("gpt-4o", HI, mock_response="hello"))
    theirs.completion = original

    assert (said, len(seen), guard.operations) == ("hello", 1, ["completion"])


@pytest.mark.parametrize("name", ["completion", "acompletion"])
@pytest.mark.parametrize("installed", [False, True])
def test_our_function_in_litellms_place_does_not_recurse(name, installed, guard, patches):
    """`litellm.completion = blueprint_llm.completion` calls LiteLLM's, once, guarded once."""
    if installed:
        blueprint_llm.install(guard)
    patches.setattr(theirs, name, getattr(blueprint_llm, name))

    assert called(theirs, name) == called(ours, name) == "hello"
    assert guard.operations == [name, name]


def test_a_wrapper_over_ours_does_not_recurse(guard, patches):
    """A wrapper that calls our function and stands in LiteLLM's place is asked once."""
    function = ours.completion

    def wrapper(**keywords):
        return function(**keywords)

    patches.setattr(theirs, "completion", wrapper)

    assert text(ours.completion(**ASK)) == "hello"
    assert guard.operations == ["completion"]


def test_a_function_kept_from_an_installed_time_is_litellms_again(guard):
    """What a library copied while we were installed is not guarded after we left."""
    with blueprint_llm.install(guard):
        copied = theirs.completion
    copied(**ASK)

    assert guard.booked == []


def test_deleting_a_function_deletes_litellms(guard):
    """Also in place, and what was deleted can be put back."""
    blueprint_llm.install(guard)
    original = vars(theirs)["completion"]

    del theirs.completion

    assert "completion" not in vars(theirs)
    assert not hasattr(theirs, "completion")
    theirs.completion = original
    theirs.completion(**ASK)
    assert guard.operations == ["completion"]


def test_router_of_the_module_is_a_class(guard):
    """Annotations, `isinstance` and class attributes work with it."""
    router = ours.Router(model_list=[])

    assert isinstance(router, (vars(theirs)["Router"], ours.Router))
    assert isinstance(router, ours.Router)
    assert not isinstance(3, ours.Router)
    assert issubclass(vars(theirs)["Router"], ours.Router)
    assert ours.Router | None
    assert ours.Router.from_config is not None
    with mock.patch.object(ours.Router, "get_model_names", return_value=["patched"]):
        assert ours.Router(model_list=[]).get_model_names() == ["patched"]


def test_install_is_quick(guard):
    """Installing replaces no function: it changes the class of one module (under 1 ms, measured by the bench)."""
    names = dict(vars(theirs))
    blueprint_llm.install(guard)

    assert dict(vars(theirs)) == names
