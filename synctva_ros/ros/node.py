"""What all nodes share: declared parameters, a careful lifecycle, diagnostics, a main function."""

from __future__ import annotations

import copy
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from synctva_ros.config import NODES, Param
from synctva_ros.parameter_file import mistyped
from synctva_ros.ros.environment import check_environment

#: Sound: reliable. A source must never be stopped by a slow subscriber, so it keeps the last chunks only; a consumer
#: keeps all, so nothing is overwritten before it was taken.
QOS_AUDIO_OUT = QoSProfile(depth=500, reliability=ReliabilityPolicy.RELIABLE)
QOS_AUDIO_IN = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
#: Results: reliable, with room for a subscriber that is busy for a while.
QOS_RESULT = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
#: Images out (REP-2003: sensors publish reliably, or as sensor data) and in. Large images travel in pieces; without
#: a chance to ask again a subscriber in another process gets hardly any whole, also on the same machine.
QOS_IMAGE_OUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
QOS_IMAGE_IN = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_AVAILABLE)
#: State that a late subscriber must still receive.
QOS_LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def descriptor(param: Param) -> ParameterDescriptor:
    """The ROS descriptor of a parameter, so that tools show and enforce its range."""
    unit = f" [{param.unit}]" if param.unit else ""
    described = ParameterDescriptor(name=param.name, description=param.meaning + unit)
    if param.choices:
        described.additional_constraints = "one of: " + ", ".join(param.choices)
    if param.low is not None and param.high is not None:
        if isinstance(param.default, float):
            described.floating_point_range = [FloatingPointRange(from_value=param.low, to_value=param.high)]
        else:
            described.integer_range = [IntegerRange(from_value=int(param.low), to_value=int(param.high), step=1)]
    return described


class PerceptionNode(LifecycleNode):
    """A lifecycle node that builds in ``configure``, talks between ``activate`` and ``deactivate``, and lets go.

    Its parameters are those that ``config.NODES`` holds under its name; they are read into ``config`` when the node is
    configured, the live ones also later. Subclasses fill in ``configure``, ``activate``, ``deactivate``, ``cleanup``
    and ``diagnose``. An exception in ``configure`` is logged as one sentence and refuses the transition; the process
    lives on.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._kind = NODES[name]
        self._params = {param.name: param for param in self._kind.params()}
        #: The values of the parameters, from ``configure`` to ``cleanup``.
        self.config: Any = None
        self._refused: dict[str, str] = {}
        #: Why the last transition was refused; empty when it was not.
        self.refusal = ""
        #: Whether the log says so, too; not needed where whoever asks for the transition does.
        self.logs_refusals = True
        self._entities: list[tuple[Callable[[Any], Any], Any]] = []
        self._diagnostics: Any = None
        self._diagnostics_timer: Any = None
        for param in self._params.values():
            self._declare(param)
        self._tell_left_out()
        self.add_on_set_parameters_callback(self._check)
        self.add_post_set_parameters_callback(self._set_again)

    # --- for subclasses

    def configure(self) -> None:
        """Load models, warm up."""

    def activate(self) -> None:
        """Create subscriptions, timers and threads."""

    def deactivate(self) -> None:
        """Stop threads; what ``subscribe`` and ``advertise`` made is destroyed by itself."""

    def cleanup(self) -> None:
        """Let go of what ``configure`` built."""

    def diagnose(self) -> tuple[int, str, dict[str, Any]]:
        """Return level, sentence and values for ``/diagnostics``."""
        return 0, "active", {}

    def has_publisher(self, topic: str) -> bool:
        """Whether anybody publishes on a topic, by the name that it has after remapping."""
        return self.count_publishers(self.resolve_topic_name(topic)) > 0

    def advertise(self, message: Any, topic: str, qos: QoSProfile) -> Any:
        """Create a publisher that lives until the node is deactivated."""
        publisher = self.create_publisher(message, topic, qos)
        self._entities.append((self.destroy_publisher, publisher))
        return publisher

    def subscribe(self, message: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile) -> None:
        """Create a subscription that lives until the node is deactivated; what the callback raises is logged.

        With ``BEST_AVAILABLE`` it is reliable until there is a publisher that is not, and best effort from then on.
        (ROS itself looks only at the publishers that are there already.)
        """

        def guarded(received: Any) -> None:
            try:
                callback(received)
            except Exception as error:  # one bad message must not end the process
                self.report_error(error)

        if qos.reliability != ReliabilityPolicy.BEST_AVAILABLE:
            subscription = self.create_subscription(message, topic, guarded, qos)
            self._entities.append((self.destroy_subscription, subscription))
            return

        def incompatible(event: Any) -> None:
            with registered:  # the node may be activated on another thread than the one that calls this
                if reliable in self._entities:  # it is told once for each publisher
                    self._entities.remove(reliable)
                    self.destroy_subscription(reliable[1])
                    self.get_logger().warning(
                        f"{topic!r} has a publisher that is best effort; large messages may get lost"
                    )
                    self.subscribe(message, topic, callback, lossy)

        registered = threading.Lock()
        strict, lossy = copy.copy(qos), copy.copy(qos)
        strict.reliability, lossy.reliability = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
        events = SubscriptionEventCallbacks(incompatible_qos=incompatible)
        with registered:
            subscription = self.create_subscription(message, topic, guarded, strict, event_callbacks=events)
            reliable = (self.destroy_subscription, subscription)
            self._entities.append(reliable)

    def serve(self, service: Any, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """Offer a service until the node is deactivated."""
        self._entities.append((self.destroy_service, self.create_service(service, name, callback)))

    def now(self) -> int:
        """Return the node's time [ns]: the wall clock, or ``/clock`` with ``use_sim_time``."""
        return int(self.get_clock().now().nanoseconds)

    def report_error(self, error: Exception) -> None:
        """Log an exception that a worker caught, with where it came from."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        self.get_logger().error(f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")

    def set_parameters_atomically(self, parameter_list: list[Parameter[Any]]) -> SetParametersResult:
        """Set all parameters or none; what ``ros2 param set`` calls.

        rclpy refuses another type or an unknown name without saying of what, and keeps the reason of a success to
        itself, so that nobody would read that a value does not count yet.
        """
        for parameter in parameter_list:
            param = self._params.get(parameter.name)
            if not self.has_parameter(parameter.name):
                return SetParametersResult(successful=False, reason=f"there is no parameter {parameter.name!r}")
            if param is not None and (problem := param.problem(parameter.value)):
                return SetParametersResult(successful=False, reason=f"parameter {parameter.name!r}: {problem}")
        result = super().set_parameters_atomically(parameter_list)
        later = [each.name for each in parameter_list if each.name in self._params and not self._params[each.name].live]
        if result.successful and later and self.config is not None:
            result.reason = (
                f"{', '.join(later)}: takes effect when the node is configured again (deactivate, cleanup, configure)"
            )
            self.get_logger().warning(result.reason)
        return result

    # --- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Build; refuse bad parameters and say which."""
        self.refusal = "; ".join(f"parameter {name!r}: {sentence}" for name, sentence in self._refused.items())
        if self.refusal:
            self._log_refusal("configured")
            return TransitionCallbackReturn.FAILURE
        try:
            self.config = self._kind(**{name: self.get_parameter(name).value for name in self._params})
            self.configure()
        except Exception as error:
            self._explain("configured", error)
            self._quietly(self.cleanup)
            self.config = None
            return TransitionCallbackReturn.FAILURE
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))
        # On a steady clock, so that the state is told also when /clock stands still.
        self._diagnostics_timer = self.create_timer(
            1.0, self.publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._active = False
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Begin to talk."""
        try:
            self.activate()
        except Exception as error:
            self._explain("activated", error)
            self._quietly(self.deactivate)
            self._destroy_entities()
            return TransitionCallbackReturn.FAILURE
        self._active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Fall silent."""
        self._active = False
        self._quietly(self.deactivate)
        self._destroy_entities()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of everything."""
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop from whichever state."""
        self._quietly(self.deactivate)
        self._destroy_entities()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Go back to unconfigured."""
        return self.on_shutdown(state)

    def destroy_node(self) -> None:
        """Let go of the node, and of DDS at once.

        rclpy forgets the lifecycle's state machine, which holds all of it until the garbage collector comes along, in
        the middle of anything: Fast DDS then waits for its own threads, and they may wait for what was interrupted.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # --- details

    _active = False

    def _declare(self, param: Param) -> None:
        try:
            declared = self.declare_parameter(param.name, param.default, descriptor(param))
            if problem := param.problem(declared.value):
                self._refused[param.name] = problem
        except ParameterException as error:
            # An error here would end the process; the node shall live, refuse to configure and say why.
            given = self._parameter_overrides[param.name].value
            allowed = f" (allowed: {param.low:g} to {param.high:g})" if param.low is not None else ""
            kind = type(param.default).__name__
            hint = f"write {given}.0" if kind == "float" and type(given) is int else error
            self._refused[param.name] = f"{given!r} is not a possible value of type {kind}{allowed}: {hint}"
            self.declare_parameter(param.name, param.default, descriptor(param), ignore_override=True)

    def _tell_left_out(self) -> None:
        """What a file has for all nodes of a robot is not for each of them, so only a typing error is a warning."""
        ours = {param.name for kind in NODES.values() for param in kind.params()}
        others = []
        for name in sorted(set(self._parameter_overrides) - set(self._params)):
            if name.startswith(("use_sim_time", "qos_overrides", "start_type_description_service")):
                continue
            near = "" if name in ours else mistyped(name, self._params)
            if near:
                self.get_logger().warning(f"there is no parameter {name!r}, so it is left out; did you mean {near!r}?")
            else:
                others.append(name)
        if others:
            self.get_logger().info(f"left out, as it has no such parameters: {', '.join(others)}")

    def _check(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        """Refuse what is not allowed, alone or together."""
        given = {parameter.name: parameter.value for parameter in parameters if parameter.name in self._params}
        try:
            values = {name: self.get_parameter(name).value for name in self._params if self.has_parameter(name)}
            self._kind(**(values | given))
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _set_again(self, parameters: list[Parameter[Any]]) -> None:
        for parameter in parameters:
            self._refused.pop(parameter.name, None)
            param = self._params.get(parameter.name)
            if param is not None and param.live and self.config is not None:
                setattr(self.config, param.name, parameter.value)

    def _log_refusal(self, what: str) -> None:
        if self.logs_refusals:
            self.get_logger().error(f"not {what}: {self.refusal}")

    def _explain(self, what: str, error: Exception) -> None:
        self.refusal = str(error) or type(error).__name__
        self._log_refusal(what)
        if not isinstance(error, ValueError | OSError | RuntimeError):
            self.get_logger().error("".join(traceback.format_exception(error)))

    def _quietly(self, step: Callable[[], None]) -> None:
        """Run a step of taking down: the rest must still be taken down when it fails."""
        try:
            step()
        except Exception as error:
            self.report_error(error)

    def _destroy_entities(self) -> None:
        while self._entities:
            destroy, entity = self._entities.pop()
            destroy(entity)

    def _release(self) -> None:
        self._quietly(self.cleanup)
        self.config = None
        if self._diagnostics_timer is not None:
            self.destroy_timer(self._diagnostics_timer)
            self.destroy_publisher(self._diagnostics)
            self._diagnostics_timer = self._diagnostics = None

    def shut_down(self) -> None:
        """Let go of everything whatever the state, for the end of the process."""
        self.on_shutdown(LifecycleState("", 0))

    def publish_diagnostics(self) -> None:
        """Publish the node's state on ``/diagnostics``."""
        level, sentence, values = self.diagnose() if self._active else (0, "inactive", {})
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f"{self.get_fully_qualified_name().lstrip('/')}",
            message=sentence,
            hardware_id="",
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def run_node(build: Callable[[], PerceptionNode], args: Sequence[str] | None = None) -> None:
    """Spin one node until it is told to stop."""
    try:
        check_environment()
        # rclpy's own signal handlers end the context at once: what is being said could not be published any more.
        rclpy.init(args=list(args) if args is not None else sys.argv, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:  # a parameter file that is no such file, --ros-args that are none
        sys.exit(f"not started: {error}")
    signals = (signal.SIGINT, signal.SIGTERM)
    told: list[int] = []
    for number in signals:
        signal.signal(number, lambda number, frame: told.append(number))  # half a node cannot be taken down
    node = build()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        for number in signals:
            signal.signal(number, signal.default_int_handler)
        while not told:
            executor.spin_once(timeout_sec=0.5)  # Python sees a signal only when this returns
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        # Both the terminal and ros2 launch send SIGINT: the second one must not cut the taking down short.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        node.shut_down()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
