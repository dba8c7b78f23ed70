//! Blue-green deployment for model servers behind nginx.
