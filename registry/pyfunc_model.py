"""What MLflow stores and runs as the model's code: it only names the class, so that no object is pickled."""

from mlflow.models import set_model

try:
    from registry.serving import DeptModel
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. This model runs on the package dept-transfer. Remedy: install its repository into this environment "
        "and serve with --env-manager local"
    ) from error

set_model(DeptModel())
