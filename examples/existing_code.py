"""What it takes to add shortcut heads to existing code: three lines, marked 1, 2 and 3.

The rest is a training of a convolutional network on Fashion-MNIST in the style of SpikingJelly's
tutorials, as it would look without this package (with MSE loss on firing rates, and the encoding
learned by the first layers). Delete the marked lines and it still runs.

    python examples/existing_code.py -data-dir data -T 4 -epochs 5
"""

import argparse
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from spikingjelly.activation_based import functional, layer, neuron, surrogate

from sj_shortcut import ShortcutLoss, remove_shortcuts, wrap_with_shortcuts

__all__ = ["CSNN", "main", "mse_of_one_hot"]


class CSNN(nn.Module):
    def __init__(self, T: int, channels: int) -> None:
        super().__init__()
        self.T = T
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),  # 14 * 14
            layer.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),  # 7 * 7
            layer.Flatten(),
            layer.Linear(channels * 7 * 7, channels * 4 * 4, bias=False),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
            layer.Linear(channels * 4 * 4, 10, bias=False),
            neuron.IFNode(surrogate_function=surrogate.ATan()),
        )
        functional.set_step_mode(self, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x_seq = x.unsqueeze(0).repeat(self.T, 1, 1, 1, 1)  # [N, C, H, W] -> [T, N, C, H, W]
        rates: torch.Tensor = self.conv_fc(x_seq).mean(0)
        return rates


def mse_of_one_hot(out: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(out, F.one_hot(label, 10).float())


def main() -> None:
    parser = argparse.ArgumentParser(description="Classify Fashion-MNIST")
    parser.add_argument("-T", default=4, type=int, help="time steps (default: 4)")
    parser.add_argument("-device", default="cpu", help="cpu or cuda:0 (default: cpu)")
    parser.add_argument("-b", default=128, type=int, help="batch size (default: 128)")
    parser.add_argument("-epochs", default=5, type=int, help="epochs (default: 5)")
    parser.add_argument("-j", default=0, type=int, help="loading processes (default: 0)")
    parser.add_argument("-data-dir", default="data", help="root of Fashion-MNIST (default: data)")
    parser.add_argument("-lr", default=0.1, type=float, help="learning rate (default: 0.1)")
    parser.add_argument("-channels", default=32, type=int, help="channels (default: 32)")
    args = parser.parse_args()

    torch.manual_seed(0)
    data = {
        train: torchvision.datasets.FashionMNIST(
            args.data_dir, train, torchvision.transforms.ToTensor(), download=True
        )
        for train in (True, False)
    }
    train_loader = torch.utils.data.DataLoader(data[True], args.b, shuffle=True, num_workers=args.j)
    test_loader = torch.utils.data.DataLoader(data[False], args.b, num_workers=args.j)

    net: nn.Module = CSNN(args.T, args.channels)
    net = wrap_with_shortcuts(net, at=["conv_fc.2", "conv_fc.6"])  # <- 1 of 3
    net.to(args.device)

    # Without shortcuts: criterion = mse_of_one_hot
    criterion = ShortcutLoss(net, mse_of_one_hot)  # <- 2 of 3
    optimizer = torch.optim.SGD(net.parameters(), lr=args.lr, momentum=0.9)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)

    for epoch in range(args.epochs):
        start_time = time.time()
        net.train()
        train_loss = train_acc = train_samples = 0
        for img, label in train_loader:
            optimizer.zero_grad()
            img, label = img.to(args.device), label.to(args.device)
            fr = net(img)
            loss = criterion(fr, label)
            loss.backward()
            optimizer.step()
            functional.reset_net(net)

            train_samples += label.numel()
            train_loss += loss.item() * label.numel()
            train_acc += (fr.argmax(1) == label).float().sum().item()
        lr_scheduler.step()
        criterion.schedule.step()  # <- 3 of 3

        net.eval()
        test_acc = test_samples = 0
        with torch.no_grad():
            for img, label in test_loader:
                img, label = img.to(args.device), label.to(args.device)
                test_acc += (net(img).argmax(1) == label).float().sum().item()
                test_samples += label.numel()
                functional.reset_net(net)

        print(
            f"epoch = {epoch}, train_loss = {train_loss / train_samples:.4f}, "
            f"train_acc = {train_acc / train_samples:.4f}, "
            f"test_acc = {test_acc / test_samples:.4f}, {time.time() - start_time:.1f} s",
            flush=True,
        )

    # Training is over; to deploy the network as it was written, take the heads out again.
    net = remove_shortcuts(net)
    print(net)


if __name__ == "__main__":
    main()
