"""cuSOLVER and cuSPARSE through PyTorch: factorisations and solutions, sparse products."""

import torch
from report import DEVICE, check, done, result

torch.manual_seed(0)
la = torch.linalg
n = 96
a = torch.randn(n, n, dtype=torch.float64)
spd, rhs, batch = a @ a.T / n + torch.eye(n), torch.randn(n, 5, dtype=torch.float64), torch.randn(12, 20, 20) + 5 * torch.eye(20)
CASES = {
    "cholesky": (lambda m, b, s: la.cholesky(m), 1e-10), "solve": (lambda m, b, s: la.solve(m, b), 1e-10),
    "inverse": (lambda m, b, s: la.inv(m), 1e-9), "determinant": (lambda m, b, s: la.slogdet(m)[1], 1e-9),
    "eigenvalues": (lambda m, b, s: la.eigvalsh(m), 1e-9), "singular values": (lambda m, b, s: la.svdvals(m), 1e-7),
    "QR": (lambda m, b, s: (lambda q, r: q @ r)(*la.qr(m)), 1e-10),
    "eigenvectors": (lambda m, b, s: (lambda w, v: (v * w) @ v.T)(*la.eigh(m)), 1e-9),
    "LU": (lambda m, b, s: la.lu_solve(*la.lu_factor(m), b), 1e-10),
    "cholesky solve": (lambda m, b, s: torch.cholesky_solve(b, la.cholesky(m)), 1e-10),
    "triangular": (lambda m, b, s: la.solve_triangular(m.tril(), b, upper=False), 1e-9),
    "batches": (lambda m, b, s: la.solve(s, torch.ones(12, 20, 1, device=s.device)), 1e-4),
}
for name, (function, tolerance) in CASES.items():
    there = [t.to(DEVICE) for t in (spd, rhs, batch)]
    check(name, result(name, lambda: function(*there), tolerance), function(spd, rhs, batch), tolerance)

dense = torch.randn(200, 300) * (torch.rand(200, 300) < 0.05)
right, mask = torch.randn(300, 40), (torch.rand(200, 40) < 0.1).float()
want = dense @ right
csr, coo = dense.to(DEVICE).to_sparse_csr(), dense.to(DEVICE).to_sparse_coo()
there = right.to(DEVICE)
# cuSPARSE's default algorithms may add up in any order.
check("CSR product", result("CSR product", lambda: csr @ there, 1e-5, exact=False), want, 1e-5)
check("CSR vector", result("CSR vector", lambda: csr @ there[:, 0], 1e-5, exact=False), want[:, 0], 1e-5)
check("COO product", result("COO product", lambda: torch.sparse.mm(coo, there), 1e-5, exact=False), want, 1e-5)
check("sparse sum", result("sparse sum", lambda: (coo + coo).coalesce().to_dense(), 1e-6), dense * 2, 1e-6)
left = dense.to(DEVICE)
sampled = result("sampled product", lambda: torch.sparse.sampled_addmm(mask.to(DEVICE).to_sparse_csr(), left, there, beta=0.0).to_dense(), 1e-5, exact=False)
check("sampled product", sampled, want * mask, 1e-5)
done()
