"""Checks the manifests in deploy/ against the schemas of their kinds, and against the deployer.

Usage: target/tools/bin/python -m unittest discover --start-directory tests/manifests
"""

import copy
import os
import re
import stat
import subprocess
import tempfile
import tomllib
import unittest
from pathlib import Path

import schemas
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SOURCE = ROOT / "crates/deployer/src"
PROGRAM = ROOT / "target/debug/deployer"


def read(path):
    return list(YAML(typ="safe", pure=True).load_all(path))


def manifest(path, kind):
    return next(document for document in read(DEPLOY / path) if document["kind"] == kind)


def manifests():
    paths = [path for path in sorted(DEPLOY.rglob("*.yaml")) if path.name != "kustomization.yaml"]
    return [(path.relative_to(DEPLOY), document) for path in paths for document in read(path)]


def inside(value, name):
    """All values of the field `name`, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in inside(item, name)]
    if not isinstance(value, dict):
        return []
    here = [value[name]] if name in value else []
    return here + [found for item in value.values() for found in inside(item, name)]


def pods():
    """The pod specs of all manifests: what has containers."""
    for path, document in manifests():
        stack = [document]
        while stack:
            value = stack.pop()
            if isinstance(value, list):
                stack.extend(value)
            elif isinstance(value, dict):
                if "containers" in value:
                    yield f"{path}: {document['kind']}", value
                stack.extend(value.values())


def argo_job():
    template = manifest("argo/analysis-template.yaml", "AnalysisTemplate")
    return template["spec"]["metrics"][0]["provider"]["job"]["spec"]


def flagger_job():
    return manifest("flagger/gates.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]


def gates_of(job):
    return next(each for each in job["template"]["spec"]["containers"] if each["name"] == "gates")


def change(document, path, value):
    """Returns a copy of the document in which the field at `path` is `value`, or is absent if `value` is None."""
    changed = copy.deepcopy(document)
    *parents, last = path
    place = changed
    for step in parents:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return changed


class SchemaTest(unittest.TestCase):
    def test_every_manifest_has_the_form_of_its_kind(self):
        kinds = set()
        for path, document in manifests():
            with self.subTest(path=str(path), kind=document["kind"]):
                schemas.check(document)
                kinds.add(document["kind"])
        self.assertLessEqual({"AnalysisTemplate", "Rollout", "Canary", "CronJob", "Deployment"}, kinds)

    def test_job_of_argo_is_also_a_job_of_kubernetes(self):
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "gates"}, "spec": argo_job()}
        schemas.check(job)

    def test_wrong_manifest_is_refused(self):
        template = manifest("argo/analysis-template.yaml", "AnalysisTemplate")
        rollout = manifest("argo/rollout.yaml", "Rollout")
        canary = manifest("flagger/canary.yaml", "Canary")
        deployment = manifest("flagger/deployment.yaml", "Deployment")
        metric = ("spec", "metrics", 0)
        job = (*metric, "provider", "job", "spec")
        pod = (*job, "template", "spec")
        container = ("spec", "template", "spec", "containers", 0)
        wrong = [
            (template, (*metric, "failurelimit"), 0),
            (template, (*metric, "provider"), None),
            (template, (*job, "activeDeadlineSecond"), 1),
            (template, (*job, "backoffLimit"), "one"),
            (template, (*pod, "containers", 0, "securityContexts"), {}),
            (template, (*job, "podFailurePolicy", "rules", 1, "action"), None),
            (template, ("metadata", "label"), {}),
            (rollout, ("spec", "strategy", "blueGreen", "prePromotionAnalyses"), {}),
            (rollout, ("spec", "strategy", "blueGreen", "activeService"), None),
            (rollout, ("spec", "replicas"), "2"),
            (rollout, (*container, "ports", 0, "containerPort"), "8080"),
            (rollout, ("apiVersion",), "argoproj.io/v2"),
            (rollout, ("kind",), "Rollouts"),
            (canary, ("spec", "analysis", "webhooks", 0, "type"), "before-rollout"),
            (canary, ("spec", "analysis", "webhooks", 0, "url"), None),
            (canary, ("spec", "analysis", "thresholds"), 1),
            (canary, ("spec", "analysis", "interval"), "one minute"),
            (deployment, (*container, "imagePullPolicies"), "Always"),
            (deployment, ("spec", "selector"), None),
            (deployment, (*container, "resources", "limit"), {}),
            (deployment, ("metadata", "label"), {}),
        ]
        for document, path, value in wrong:
            with self.subTest(kind=document["kind"], path=path), self.assertRaises(schemas.Refused):
                schemas.check(change(document, path, value))

    def test_field_written_twice_is_refused(self):
        with self.assertRaises(Exception) as raised:
            YAML(typ="safe", pure=True).load("a: 1\na: 2\n")
        self.assertIn("duplicate", str(raised.exception))

    def test_kustomizations_name_every_file(self):
        for path in sorted(DEPLOY.rglob("kustomization.yaml")):
            (document,) = read(path)
            generated = [name for each in document.get("configMapGenerator", ()) for name in each["files"]]
            named = {path.parent / name for name in document.get("resources", []) + generated}
            with self.subTest(path=str(path)):
                for each in named:
                    self.assertTrue(each.exists(), each)
                beside = {each for each in path.parent.iterdir() if each.name != "kustomization.yaml"}
                self.assertEqual(beside - named, set())


class PodTest(unittest.TestCase):
    def test_every_pod_meets_the_restricted_standard(self):
        found = list(pods())
        self.assertEqual(len(found), 9)
        for where, pod in found:
            containers = pod["containers"] + pod.get("initContainers", [])
            with self.subTest(where):
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertGreater(pod["securityContext"]["runAsUser"], 0)
                self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault")
                self.assertFalse({"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & pod.keys())
                allowed = {"name", "configMap", "emptyDir", "persistentVolumeClaim", "secret"}
                self.assertLessEqual({kind for volume in pod["volumes"] for kind in volume}, allowed)
                self.assertTrue(pod.get("automountServiceAccountToken") is False or "serviceAccountName" in pod)
                for container in containers:
                    security = container["securityContext"]
                    self.assertFalse(security["allowPrivilegeEscalation"])
                    self.assertTrue(security["readOnlyRootFilesystem"])
                    self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                    self.assertIn("memory", container["resources"]["limits"])
                    self.assertLessEqual({"cpu", "memory"}, container["resources"]["requests"].keys())

    def test_images_are_those_that_compose_uses(self):
        compose = (ROOT / "compose.yaml").read_text()
        built = set(re.findall(r"\$\{[A-Z]+_IMAGE:-([^}]+)\}", compose))
        self.assertLessEqual({"deployer:latest", "model-server:latest"}, built)
        used = {image for _, document in manifests() for image in inside(document, "image")}
        (kustomization,) = read(DEPLOY / "kubernetes/base/kustomization.yaml")
        replaced = {image["name"] for image in kustomization["images"]}
        self.assertEqual(replaced, {"model-server", "router"})
        self.assertEqual({image for image in used if not image.startswith("ghcr.io/fluxcd/")}, built | replaced)


class DeployerTest(unittest.TestCase):
    def test_both_controllers_run_the_same_job(self):
        argo, flagger = copy.deepcopy(argo_job()), copy.deepcopy(flagger_job())
        for job in (argo, flagger):
            gates_of(job)["args"] = []
        self.assertEqual(argo, flagger)

    def test_arguments_are_those_of_validate(self):
        sources = [(SOURCE / name).read_text() for name in ("cli.rs", "config/overrides.rs")]
        flags = {"set"}
        for text in sources:
            for _, field in re.findall(r"#\[arg\((long[^]]*)\)\]\s*(?:pub )?(\w+):", text):
                flags.add(field.replace("_", "-"))
        for job in (argo_job(), flagger_job()):
            command, version, *rest = gates_of(job)["args"]
            self.assertEqual(command, "validate")
            self.assertIn(version, ("{{args.version}}", "$(CANDIDATE_VERSION)"))
            for argument in rest:
                self.assertRegex(argument, r"^--[a-z-]+(=.+)?$")
                self.assertIn(argument[2:].partition("=")[0], flags)

    def test_settings_exist(self):
        defaults = tomllib.loads((SOURCE / "config/defaults.toml").read_text())
        for section, settings in self.settings().items():
            for key in settings:
                self.assertIn(key, defaults[section])

    def test_job_has_more_time_than_its_gates(self):
        settings = tomllib.loads((SOURCE / "config/defaults.toml").read_text())
        for section, own in self.settings().items():
            settings[section].update(own)

        def seconds(text):
            number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
            return int(number) * {"s": 1, "m": 60}[unit]

        load, comparison = settings["load"], settings["comparison"]
        least = seconds(load["duration"]) + seconds(load["timeout"]) + 3 * seconds(comparison["duration"])
        deadline = argo_job()["activeDeadlineSeconds"]
        self.assertGreater(deadline, 2 * least)
        script = (DEPLOY / "flagger/run-gates").read_text()
        limit = int(re.search(r"LIMIT=(\d+)", script).group(1))
        hook = manifest("flagger/canary.yaml", "Canary")["spec"]["analysis"]["webhooks"][0]["timeout"]
        self.assertTrue(deadline < limit < seconds(hook), (deadline, limit, hook))
        loadtester = manifest("flagger/hooks.yaml", "Deployment")["spec"]["template"]["spec"]["containers"][0]
        self.assertIn(f"-timeout={hook}", loadtester["command"])

    def test_codes_that_end_the_job_are_the_deployers(self):
        text = (SOURCE / "exit_code.rs").read_text()
        codes = {name: int(code) for name, code in re.findall(r"pub const (\w+): u8 = (\d+);", text)}
        rules = argo_job()["podFailurePolicy"]["rules"]
        self.assertEqual([rule["action"] for rule in rules], ["Ignore", "FailJob"])
        self.assertEqual(rules[1]["onExitCodes"]["values"], [codes["USAGE"], codes["REFUSED"]])

    @unittest.skipUnless(PROGRAM.exists(), "target/debug/deployer is not built")
    def test_program_takes_arguments_and_settings(self):
        for job in (argo_job(), flagger_job()):
            with tempfile.TemporaryDirectory() as state:
                arguments = [
                    re.sub(r"\{\{.*?\}\}|\$\(.*?\)", "v2", argument)
                    .replace("/etc/deployer/", f"{DEPLOY}/gates/")
                    .replace("/var/lib/deployer", state)
                    for argument in gates_of(job)["args"]
                ]
                inputs = f"--set=probe.inputs={ROOT}/models/sentiment/golden.jsonl"
                # A port at which nothing listens.
                control = "--set=router.control=http://127.0.0.1:9"
                ended = subprocess.run(
                    [PROGRAM, *arguments, inputs, control], capture_output=True, text=True, timeout=20, check=False
                )
            # Wrong arguments or settings would end with 2.
            self.assertEqual(ended.returncode, 10, ended.stderr)
            self.assertIn("the router does not report which color is active", ended.stdout + ended.stderr)

    @staticmethod
    def settings():
        return tomllib.loads((DEPLOY / "gates/deployer.toml").read_text())


class HookTest(unittest.TestCase):
    """Runs run-gates with a stand-in for kubectl."""

    KUBECTL = """#!/bin/sh
echo "$@" >>"$CALLS"
case "$*" in
"get deployment sentiment "*) printf %s "$VERSION" ;;
"create job "*) echo template ;;
"set env "*) cat ;;
"create --filename "*) [ "$(cat)" = template ] && echo job.batch/gates ;;
"get job.batch/gates "*) echo "$CONDITIONS" ;;
"logs job.batch/gates "*) echo "not passed: v2 on green: golden" ;;
*) exit 1 ;;
esac
"""

    def run_gates(self, version, conditions):
        with tempfile.TemporaryDirectory() as directory:
            kubectl = Path(directory) / "kubectl"
            kubectl.write_text(self.KUBECTL)
            kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
            calls = Path(directory) / "calls"
            environment = {
                "PATH": f"{directory}:{os.environ['PATH']}",
                "CALLS": str(calls),
                "VERSION": version,
                "CONDITIONS": conditions,
            }
            ended = subprocess.run(
                ["bash", DEPLOY / "flagger/run-gates", "sentiment"],
                env=environment, capture_output=True, text=True, timeout=20, check=False,
            )  # fmt: skip
            return ended, calls.read_text()

    def test_passed_job_lets_the_rollout_go_on(self):
        ended, calls = self.run_gates("v2", "SuccessCriteriaMet Complete")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn("--containers gates CANDIDATE_VERSION=v2", calls)

    def test_failed_job_ends_the_hook_with_its_last_lines(self):
        ended, _ = self.run_gates("v2", "FailureTarget Failed")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("not passed: v2 on green: golden", ended.stdout)

    def test_deployment_without_version_is_named(self):
        ended, calls = self.run_gates("", "Complete")
        self.assertEqual(ended.returncode, 2)
        self.assertIn("has no label 'version'", ended.stderr)
        self.assertNotIn("create", calls)


if __name__ == "__main__":
    unittest.main()
