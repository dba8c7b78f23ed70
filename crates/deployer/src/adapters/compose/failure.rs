//! What Docker's error messages mean. No other code of this project reads their words.

use crate::ports::PortError;

/// Docker may not be used by this user.
const DENIED: &str = "permission denied";
/// Docker's engine does not run. The second wording is that of Docker 29 and later.
const NO_ENGINE: [&str; 2] = [
    "Cannot connect to the Docker daemon",
    "failed to connect to the docker API",
];

/// Why a command of Docker failed, by what it printed as errors.
pub(super) fn of_docker(shown: &str, errors: &str) -> PortError {
    let message = format!("`{shown}` failed: {errors}");
    // A user without permission cannot connect either.
    if errors.contains(DENIED) {
        PortError::PermissionDenied(message)
    } else if NO_ENGINE.iter().any(|words| errors.contains(words)) {
        PortError::Unreachable(message)
    } else {
        PortError::ProgramFailed(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_version(errors: &str) -> PortError {
        let error = of_docker("docker version", errors);
        assert_eq!(
            error.to_string(),
            format!("`docker version` failed: {errors}")
        );
        error
    }

    #[test]
    fn docker_without_permission_is_permission_denied() {
        for errors in [
            "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: Get \"http://%2Fvar%2Frun%2Fdocker.sock/v1.47/version\": dial unix /var/run/docker.sock: connect: permission denied",
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
            "failed to connect to the docker API at unix:///var/run/docker.sock: dial unix /var/run/docker.sock: connect: permission denied",
        ] {
            assert!(matches!(of_version(errors), PortError::PermissionDenied(_)));
        }
    }

    #[test]
    fn docker_without_engine_is_unreachable() {
        for errors in [
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
            "failed to connect to the docker API at unix:///var/run/docker.sock; check if the path is correct and if the daemon is running: dial unix /var/run/docker.sock: connect: no such file or directory",
        ] {
            assert!(matches!(of_version(errors), PortError::Unreachable(_)));
        }
    }

    #[test]
    fn docker_with_another_error_is_a_failed_program() {
        let errors = "Error response from daemon: No such image: model-server:v9";
        assert!(matches!(of_version(errors), PortError::ProgramFailed(_)));
    }
}
