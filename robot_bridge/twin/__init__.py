"""The digital lab: MuJoCo behind emulated devices that speak the genuine wire protocols."""
