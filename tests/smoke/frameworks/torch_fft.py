"""cuFFT through PyTorch: one, two and three dimensions, real and complex, odd and prime lengths, and back."""

import torch
from report import DEVICE, check, done, result

torch.manual_seed(0)
fft = torch.fft
CASES = {
    "1d": (lambda x: fft.fft(x), (16, 1024)), "1d, prime": (lambda x: fft.fft(x), (3, 997)),
    "real": (lambda x: fft.rfft(x), (16, 1000)), "2d": (lambda x: fft.fft2(x), (2, 64, 96)),
    "3d": (lambda x: fft.fftn(x), (16, 18, 20)), "there and back": (lambda x: fft.irfft(fft.rfft(x), n=x.shape[-1]), (5, 1023)),
    "convolution": (lambda x: fft.irfft(fft.rfft(x) * fft.rfft(x.flip(-1)), n=x.shape[-1]), (8, 512)),
}
for name, (function, shape) in CASES.items():
    x = torch.randn(shape)
    check(name, result(name, lambda: function(x.to(DEVICE)), 1e-5), function(x.double()), 1e-5)
x = torch.randn(4, 256, dtype=torch.float64)
check("f64", result("f64", lambda: fft.fft(x.to(DEVICE)), 1e-12), fft.fft(x), 1e-12)
done()
