# Blue-green deployment for model servers. `make` without a target lists all targets.

# The fleet that runs the servers: compose or process. If it is empty, deployer.toml decides.
FLEET ?=
# The deployer program. To use an installed one: make DEPLOYER=deployer ...
DEPLOYER ?= target/debug/deployer
# Remote machines: `make ship HOST=user@vm` (see scripts/vm). HOST in the environment is ignored, because it is a setting of
# the model server.
VM = $(if $(findstring command,$(origin HOST)),$(HOST))
FLEET_FLAG = $(if $(FLEET),--fleet $(FLEET))

# The programs to build first: the deployer unless it is an installed one, and the model server for the process fleet.
# --bin names them, so that every target selects the same features. With -p, cargo would compile dependencies again.
PROGRAMS = $(if $(VM),,$(if $(filter target/debug/%,$(DEPLOYER)),--bin deployer) $(if $(filter process,$(FLEET)),--bin model-server))

.DEFAULT_GOAL := help
.PHONY: help programs setup demo up down deploy rollback abort recover status history doctor page provision ship logs images test test-all e2e lint bench soak torture clean

help: ## List all targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n  Variables: VERSION=v2 (deploy), FLEET=compose|process, DEPLOYER=path\n             HOST=user@vm,... NAME=service PORT=8080 (scripts/vm)\n'

setup: ## Install what the other targets need (Debian or Ubuntu)
	scripts/setup test

demo: ## Promote a release under live traffic, roll back a bad one, refuse another; without Docker
	scripts/setup demo
	cargo build --locked --bin deployer --bin demo --bin faulty-server
	target/debug/demo

up: programs ## Start the router and both colors
	$(if $(VM)$(filter process static,$(FLEET)),,@docker image inspect model-server:latest >/dev/null 2>&1 || docker/build)
	$(if $(VM),scripts/vm up,$(DEPLOYER) up $(FLEET_FLAG))

down: programs ## Stop the monitor, the router, and both colors
	$(if $(VM),scripts/vm down,$(DEPLOYER) down $(FLEET_FLAG))

deploy: programs ## Start VERSION on the idle color, run the gates, switch, and bake
	$(if $(VM),scripts/vm deploy $(VERSION),$(DEPLOYER) deploy $(VERSION) $(FLEET_FLAG))

rollback: programs ## Move all traffic back to the previous release, or to an earlier VERSION
	$(if $(VM),scripts/vm rollback $(VERSION),$(DEPLOYER) rollback $(VERSION) $(FLEET_FLAG))

abort: programs ## End the deployment that is under way
	$(if $(VM),scripts/vm abort,$(DEPLOYER) abort $(FLEET_FLAG))

provision: ## Prepare a machine for the service: HOST=user@vm
	@$(if $(VM),,echo "usage: make provision HOST=user@vm" >&2; exit 2;) scripts/vm provision

ship: ## Provision a new machine, send VERSION to it over SSH, and deploy it there: HOST=user@vm
	@$(if $(VM),,echo "usage: make ship HOST=user@vm VERSION=v2" >&2; exit 2;) scripts/vm ship $(VERSION)

recover: programs ## Complete or undo the work of a killed deployer
	$(if $(VM),scripts/vm recover,$(DEPLOYER) recover $(FLEET_FLAG))

status: programs ## Show what each color serves and where traffic goes
	$(if $(VM),scripts/vm status,$(DEPLOYER) status $(FLEET_FLAG))

history: programs ## Show all changes: who, what, when, and why
	$(if $(VM),scripts/vm history,$(DEPLOYER) history)

doctor: programs ## Find problems of the installation, and say how to solve them
	$(if $(VM),scripts/vm doctor,$(DEPLOYER) doctor $(FLEET_FLAG))

page: programs ## Print a link that signs in to the page of the monitor
	$(if $(VM),scripts/vm page,$(DEPLOYER) page-link)

logs: ## Follow the logs of the router and both colors
	$(if $(VM),scripts/vm logs,$(if $(filter process,$(FLEET)),tail -n 20 -F state/processes/blue.log state/processes/green.log state/processes/router.log,docker compose logs --tail 20 --follow))

images: ## Build the Docker images
	docker/build

test: ## Run the tests that must pass after every change
	scripts/test

test-all: ## Run the longer tests: image build in Docker, virtual machine, bare machine, kills for an hour
	scripts/test-all

e2e: ## Run only the end-to-end tests; build the images first
	cargo build --locked --all-targets
	cargo nextest run --locked -E "package(end-to-end)"

lint: ## Check format, lints, dependencies, scripts, and spelling
	scripts/lint

bench: ## Measure the model server beside others, overload, and switching; rewrite docs/benchmarks.md
	scripts/bench

soak: ## Load the model server for an hour; fail if its memory grows
	scripts/bench soak

torture: ## Kill 200 deployers under load, then switch traffic back and forth for an hour
	cargo build --locked --bin deployer --bin model-server --bin torture
	target/debug/torture

clean: ## Remove build outputs
	cargo clean

programs:
	$(if $(strip $(PROGRAMS)),cargo build --locked $(PROGRAMS))
