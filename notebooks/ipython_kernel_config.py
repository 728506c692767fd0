"""For kernels of this environment: drop only the warning of unencrypted loopback sockets, which ipykernel 7 gives."""

import logging

logging.getLogger("IPKernelApp").addFilter(lambda record: "TCP without encryption" not in record.getMessage())
