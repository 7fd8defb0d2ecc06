"""What can be wrong with one node of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from engine.errors import MezzotintError
from engine.fileref import Files
from engine.graph.coerce import NotCoercibleError, bound, coerce, expectation
from engine.graph.graph import BadLink, Call, Link, NodeId, Value
from engine.graph.problems import Problem, ProblemType
from engine.graph.text import Nearest, clip, listed, nearest, shown
from engine.registry import Registry
from engine.spec import MISSING, FileChoice, InputSpec, NodeSpec
from engine.types import COMBO, STRING, accepts


def feeds(wanted: str, offered: str) -> bool:
    """Whether an output of type ``offered`` may be linked to an input of type ``wanted``.

    Beyond ``types.accepts`` a choice may go where a text is taken, which ComfyUI refuses: every choice is a text. The
    other way round stays refused, since nobody could tell beforehand whether the text is one of the choices.
    """
    return accepts(wanted, offered) or (offered == COMBO and accepts(wanted, STRING))


def is_leftover(spec: NodeSpec, call: Call, name: str) -> bool:
    """Whether an input that the node does not declare may go without a word, as ComfyUI lets it: a literal of another
    version of the node, or a button that an exporter wrote beside its widget.

    A name that is like one of the node's own, which the call does not have, is a misspelt one and no leftover.
    """
    if spec.takes_extra or isinstance(call.inputs[name], Link | BadLink) or spec.input(name) is not None:
        return False
    # names of packs change from version to version, and what their functions are not given they have defaults for
    return (
        spec.pack is not None or nearest(name, (own.name for own in spec.inputs if own.name not in call.inputs)) is None
    )


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the nodes of ``calls`` one by one; what it learns of files and names serves all of them."""

    calls: Mapping[NodeId, Call]
    registry: Registry
    files: Files | None = None
    strict: bool = False
    """Whether no leftovers are let pass: what is being written now is no other version's."""
    _nearest: Nearest = field(default_factory=Nearest)
    _file_errors: dict[tuple[FileChoice, str], str | None] = field(default_factory=dict)

    def problem(self, node: NodeId, type_: ProblemType, message: str, **details: str | None) -> Problem:
        """A problem of this node; ``message`` follows the words that say which node and input it is."""
        call = self.calls[node]
        name = details.get("input")
        where = self.where(node) + (f", input {clip(name)}" if name else "")
        suggestion = details.get("nearest")
        # what looks files up may have made the same suggestion
        told = suggestion is None or (type_ == "missing_file" and suggestion in message)
        ending = "" if told else f"; did you mean {shown(suggestion)}?"
        return Problem(type_, f"{where}: {message}{ending}", str(node), call.type, self.title(call), **details)

    def where(self, node: NodeId) -> str:
        call = self.calls[node]
        title = self.title(call)
        label = f' "{clip(title)}"' if title and title != call.type else ""
        spec = self.registry.get(call.type)
        pack = f" of pack {clip(spec.pack)}" if spec and spec.pack else ""
        return f"node {clip(node)} ({clip(call.type)}{label}{pack})"

    def title(self, call: Call) -> str | None:
        spec = self.registry.get(call.type)
        return call.title or (spec.title if spec else None)

    def type_problem(self, node: NodeId) -> Problem | None:
        """Whether the node's type is known."""
        type_ = self.calls[node].type
        if type_ in self.registry:
            return None
        close = self._nearest("type", type_, self.registry.nearest)
        message = f"there is no node type {shown(type_)}"
        if close is None:
            message += "; install the node package that has it, or take the node out"
        return self.problem(node, "missing_node_type", message, found=type_, nearest=close)

    def node_problems(self, node: NodeId) -> list[Problem]:
        """Everything wrong with the node's inputs: the declared ones in their order, then the others in the file's."""
        call = self.calls[node]
        spec = self.registry.get(call.type)
        if spec is None:
            return []
        found = [problem for known in spec.inputs for problem in self._declared(node, spec, known)]
        declared = {known.name for known in spec.inputs}
        for name, value in call.inputs.items():
            if name not in declared and (self.strict or not is_leftover(spec, call, name)):
                found += self._undeclared(node, spec, name, value)
        if not found and spec.check is not None:
            found += self._custom(node, spec)
        return found

    def _declared(self, node: NodeId, of: NodeSpec, spec: InputSpec) -> Iterator[Problem]:
        inputs = self.calls[node].inputs
        value = inputs.get(spec.name, MISSING)
        if value is MISSING:
            if spec.required:
                yield self._missing(node, spec)
        elif isinstance(value, BadLink):
            yield self._bad_linked(node, spec.name, value)
        elif isinstance(value, Link):
            yield from self._linked(node, spec.name, value, None if of.judges_types else spec)
        else:
            yield from self._literal(node, spec, value, judged=spec.name in of.judges)

    def _missing(self, node: NodeId, spec: InputSpec) -> Problem:
        expected = expectation(spec)
        usual = f", usually {shown(spec.default)}" if spec.default is not MISSING else ""
        message = f"it is required and not there; expected {expected}{usual}"
        return self.problem(node, "required_input_missing", message, input=spec.name, expected=expected)

    def _undeclared(self, node: NodeId, spec: NodeSpec, name: str, value: Value | Link) -> Iterator[Problem]:
        if not spec.takes_extra:
            yield self._unknown(node, spec, name)
        elif isinstance(value, BadLink):
            yield self._bad_linked(node, name, value)
        elif isinstance(value, Link):
            yield from self._linked(node, name, value, None)

    def _unknown(self, node: NodeId, spec: NodeSpec, name: str) -> Problem:
        names = [known.name for known in spec.inputs]
        close = self._nearest(f"input of {spec.type}", name, lambda wrong: nearest(wrong, names))
        message = f"{clip(spec.type)} has no such input, it takes {listed(names)}"
        return self.problem(
            node, "unknown_input", message, input=name, expected=listed(names), found=name, nearest=close
        )

    def _bad_linked(self, node: NodeId, name: str, value: BadLink) -> Problem:
        expected = "a link [node id, output number]"
        found = shown(value.received)
        message = f'expected {expected}, found {found}; a list that is a value is written {{"__value__": [...]}}'
        return self.problem(node, "bad_linked_input", message, input=name, expected=expected, found=found)

    def _linked(self, node: NodeId, name: str, link: Link, spec: InputSpec | None) -> Iterator[Problem]:
        source = self.calls.get(link.node)
        if source is None:
            message = (
                f"expected a link to a node of this workflow, found one to node {clip(link.node)}, which is not there"
            )
            yield self.problem(
                node, "bad_link", message, input=name, expected="a node of this workflow", found=str(link.node)
            )
            return
        offers = self.registry.get(source.type)
        if offers is None:
            return
        if not 0 <= link.output < len(offers.outputs):
            expected = _outputs_of(offers)
            message = f"expected {expected}, found output {shown(link.output)} of {self.where(link.node)}"
            yield self.problem(node, "bad_link", message, input=name, expected=expected, found=shown(link.output))
        elif spec is not None:
            yield from self._type_mismatch(node, spec, link, offers)

    def _type_mismatch(self, node: NodeId, spec: InputSpec, link: Link, offers: NodeSpec) -> Iterator[Problem]:
        offered = offers.outputs[link.output].type
        if feeds(spec.type, offered):
            return
        message = f"expected {spec.type}, found {offered} from output {link.output} of {self.where(link.node)}"
        fitting = [index for index, output in enumerate(offers.outputs) if feeds(spec.type, output.type)]
        if fitting:
            message += f"; its output {fitting[0]} would fit"
        yield self.problem(node, "return_type_mismatch", message, input=spec.name, expected=spec.type, found=offered)

    def _literal(self, node: NodeId, spec: InputSpec, value: Value, *, judged: bool) -> Iterator[Problem]:
        """``judged``: what it may be beyond its type is for the node's own check to say."""
        if value is None and not spec.required and not spec.is_widget:
            return
        try:
            coerced = coerce(spec, value)
        except NotCoercibleError:
            yield self._unfit(node, spec, value, "invalid_input_type")
            return
        if judged:
            return
        if spec.files is not None:
            yield from self._missing_file(node, spec, spec.files, coerced)
        elif (options := spec.options) is not None and coerced not in options:
            choices = [str(choice) for choice in options]
            close = self._nearest(
                f"choice of {self.calls[node].type}.{spec.name}", coerced, lambda wrong: nearest(wrong, choices)
            )
            yield self._unfit(node, spec, value, "value_not_in_list", nearest=close)
        elif (limits := spec.range) is not None and coerced < limits.min:
            expected = f"at least {bound(spec, limits.min)}"
            yield self._unfit(node, spec, value, "value_smaller_than_min", expected)
        elif limits is not None and coerced > limits.max:
            yield self._unfit(node, spec, value, "value_bigger_than_max", f"at most {bound(spec, limits.max)}")

    def _unfit(
        self,
        node: NodeId,
        spec: InputSpec,
        value: Value,
        type_: ProblemType,
        told: str | None = None,
        nearest: str | None = None,
    ) -> Problem:
        """A literal that its input does not take. ``told``: what was expected, where that is less than all the input says of itself."""
        expected, found = expectation(spec), shown(value)
        message = f"expected {told or expected}, found {found}"
        return self.problem(node, type_, message, input=spec.name, expected=expected, found=found, nearest=nearest)

    def _missing_file(self, node: NodeId, spec: InputSpec, choice: FileChoice, name: str) -> Iterator[Problem]:
        error = self._file_error(choice, name)
        if error is None or self.files is None:
            return
        names = self.files.choices
        close = self._nearest(f"file of {choice}", name, lambda wrong: nearest(wrong, names(choice)))
        expected = expectation(spec)
        details = {"input": spec.name, "expected": expected, "found": name, "nearest": close if close != name else None}
        yield self.problem(node, "missing_file", f"expected {expected}: {clip(error, 400)}", **details)

    def _file_error(self, choice: FileChoice, name: str) -> str | None:
        key = (choice, name)
        if self.files is not None and key not in self._file_errors:
            try:
                self.files.resolve(choice, name)
                self._file_errors[key] = None
            except (MezzotintError, OSError, ValueError) as error:  # ValueError: a name with a NUL in it
                self._file_errors[key] = str(error)
        return self._file_errors.get(key)

    def _custom(self, node: NodeId, spec: NodeSpec) -> Iterator[Problem]:
        assert spec.check is not None
        try:
            arguments = check_arguments(spec, self.calls[node]) | spec.identity(node)
            if spec.judges_types:
                arguments["input_types"] = self._linked_types(node)
            wrong = spec.check(**arguments)
        except (Exception, SystemExit) as error:  # a node's own code may fail in any way
            told = str(error) if isinstance(error, MezzotintError) else f"{type(error).__name__}: {error}"
            message = f"the node's own check failed with {clip(told, 400)}"
            yield self.problem(node, "exception_during_validation", message)
            return
        if wrong is not None:
            yield self.problem(node, "custom_validation_failed", clip(wrong, 400))

    def _linked_types(self, node: NodeId) -> dict[str, str]:
        """The types that come over the node's links, by input."""
        found: dict[str, str] = {}
        for name, link in self.calls[node].links.items():
            source = self.registry.get(self.calls[link.node].type)
            if source is not None:
                found[name] = source.outputs[link.output].type
        return found


def _outputs_of(spec: NodeSpec) -> str:
    last = len(spec.outputs) - 1
    if last < 0:
        return "a node with outputs"
    return "output 0" if last == 0 else f"an output from 0 to {last}"


def check_arguments(spec: NodeSpec, call: Call) -> dict[str, Value]:
    """What a node's ``check`` is called with: every declared input, coerced; None for a link, the default for one
    left out, which a pack's check has a default of its own for."""
    arguments: dict[str, Value] = {}
    for known in spec.inputs:
        if spec.pack and known.name not in call.inputs:
            continue
        value = call.inputs.get(known.name, known.default)
        arguments[known.name] = None if value is MISSING or isinstance(value, Link) else coerce(known, value)
    if spec.takes_extra and not spec.extra_links_only:
        arguments |= {name: value for name, value in call.literals.items() if name not in arguments}
    return arguments
