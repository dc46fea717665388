"""The Bayesian model: a linear map from guide to coarse bands, adapted to each scene.

The coarse value y of band b in one frame (a *channel* j) at coarse pixel i is modelled as

    y_ij = (1 + g_j) (z_ij . w_b) + e_ij

with the same symbols in every file:

    z      (f,)      features: the guide's bands under the frame's PSF and shift, and a constant
    W      (c, f)    spectral map, rows w_b; a priori vec W ~ N(vec M, A), from library spectra
    x      z . m_b   prediction of the prior mean M
    g_j    gain error of the channel, g_j ~ N(0, s_g^2)
    e_j    noise, e_j ~ N(0, v_j (s K + D)): white and correlated between neighbours

All of it is linear and Gaussian, so the posterior of W and g, the evidence of hyperparameters and
the residual field have closed forms (Rasmussen and Williams 2006, chapter 2; Bishop 2006, chapter
3). docs/adr/0005-bayesian-model.md gives the order of the steps and the reasons. In the order in
which `model.fit` calls them:

    spectral_prior         M and A from library spectra
    guide                  restores the guide: native_blur sharpens its 20 and 60 m bands,
                           mask_edge_filter corrects pixels next to masks
    plausible              rejects images that cannot be of one scene
    frames                 processes the coarse frames with
      registration           shift and PSF width
      residual_cloud         removes unmasked cloud and shadow next to masks
      sufficient_statistics  sums over pixels, with correlated noise diagonalised
      empirical_bayes        posterior of W and g, noise, hyperparameters
      residual_field         kriging of what W does not explain
    uncertainty            variance of the fused image
"""
